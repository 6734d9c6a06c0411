"""What stands in for ``detectron2._C``: its functions, under its names and with its arguments in its order.

Rotated boxes are (cx, cy, w, h, angle), the angle in degrees, counter-clockwise. Functions of them are both here and
registered as ``torch.ops.detectron2.<name>``, since versions of detectron2 call one or the other.
"""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from ... import _C
from .. import _compiled
from ..mmcv._deform import deform_conv_backward_input as deform_conv_backward_input
from ..mmcv._deform import deform_conv_backward_parameters as deform_conv_backward_filter  # noqa: F401
from ..mmcv._deform import deform_conv_forward as deform_conv_forward
from ..mmcv._deform import modulated_deform_conv_backward as modulated_deform_conv_backward
from ..mmcv._deform import modulated_deform_conv_forward as modulated_deform_conv_forward
from ._coco import COCOevalAccumulate as COCOevalAccumulate
from ._coco import COCOevalEvaluateImages as COCOevalEvaluateImages
from ._coco import ImageEvaluation as ImageEvaluation
from ._coco import InstanceAnnotation as InstanceAnnotation


def get_compiler_version() -> str:
    return _C.build_info()["cxx"]


def get_cuda_version() -> str:
    return f"CUDA {torch.version.cuda}" if has_cuda() else "not available"


def has_cuda() -> bool:
    """Whether detops's CUDA kernels are there."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("detops::nms", "CUDA")


@torch.no_grad()
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """All pairs, (N, M)."""
    return torch.ops.detops.box_iou_rotated.default(boxes1, boxes2, False, False, False, True)


@torch.no_grad()
def nms_rotated(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices kept, highest score first; at the threshold itself nothing is dropped, on any device."""
    return torch.ops.detops.nms_rotated.default(_radians(dets), scores, iou_threshold, None, False)


@torch.no_grad()
def roi_align_rotated_forward(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int
) -> Tensor:
    """Of ``rois`` (K, 6), the image's index first; pixel centres lie at half integers."""
    arguments = (spatial_scale, pooled_height, pooled_width, sampling_ratio, True, False)
    return torch.ops.detops.roi_align_rotated.default(input, _radians(rois), *arguments)


@torch.no_grad()
def roi_align_rotated_backward(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
) -> Tensor:
    sizes = (pooled_height, pooled_width, batch_size, channels, height, width)
    backward = torch.ops.detops.roi_align_rotated_backward.default
    return backward(grad, _radians(rois), spatial_scale, *sizes, sampling_ratio, True, False, False)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any other function can be imported, but not called."""
    return _compiled.missing_function("detectron2._C", __name__, name)


def _radians(rows: Tensor) -> Tensor:
    """Rows whose last number is an angle, in radians instead of degrees; in float32 at least."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return torch.cat([wide[:, :-1], torch.deg2rad(wide[:, -1:])], dim=1)


_LIBRARY = torch.library.Library("detectron2", "FRAGMENT")
for _schema, _function in {
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor": box_iou_rotated,
    "nms_rotated(Tensor dets, Tensor scores, float iou_threshold) -> Tensor": nms_rotated,
    "roi_align_rotated_forward(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio) -> Tensor": roi_align_rotated_forward,
    "roi_align_rotated_backward(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int batch_size, int channels, int height, int width, int sampling_ratio) -> Tensor": roi_align_rotated_backward,
}.items():
    _name = _schema.partition("(")[0]
    if not hasattr(torch.ops.detectron2, _name):
        _LIBRARY.define(_schema)
        _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
