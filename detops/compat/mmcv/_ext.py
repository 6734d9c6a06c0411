"""What stands in for ``mmcv._ext``: its functions, under its names and with its arguments in its order.

As in the original, results are written into tensors that the caller has made, filled with zeros for gradients.
"""

from collections.abc import Callable
from typing import NoReturn

import torch

from ... import _C
from .. import _compiled
from ._alignment import active_rotated_filter_backward as active_rotated_filter_backward
from ._alignment import active_rotated_filter_forward as active_rotated_filter_forward
from ._alignment import border_align_backward as border_align_backward
from ._alignment import border_align_forward as border_align_forward
from ._alignment import rotated_feature_align_backward as rotated_feature_align_backward
from ._alignment import rotated_feature_align_forward as rotated_feature_align_forward
from ._attention import ms_deform_attn_backward as ms_deform_attn_backward
from ._attention import ms_deform_attn_forward as ms_deform_attn_forward
from ._boxes import bbox_overlaps as bbox_overlaps
from ._boxes import box_iou_rotated as box_iou_rotated
from ._boxes import nms as nms
from ._boxes import nms_match as nms_match
from ._boxes import nms_rotated as nms_rotated
from ._boxes import softnms as softnms
from ._deform import deform_conv_backward_input as deform_conv_backward_input
from ._deform import deform_conv_backward_parameters as deform_conv_backward_parameters
from ._deform import deform_conv_forward as deform_conv_forward
from ._deform import modulated_deform_conv_backward as modulated_deform_conv_backward
from ._deform import modulated_deform_conv_forward as modulated_deform_conv_forward
from ._losses import sigmoid_focal_loss_backward as sigmoid_focal_loss_backward
from ._losses import sigmoid_focal_loss_forward as sigmoid_focal_loss_forward
from ._losses import softmax_focal_loss_backward as softmax_focal_loss_backward
from ._losses import softmax_focal_loss_forward as softmax_focal_loss_forward
from ._polygons import box_iou_quadri as box_iou_quadri
from ._polygons import convex_giou as convex_giou
from ._polygons import convex_iou as convex_iou
from ._polygons import min_area_polygons as min_area_polygons
from ._polygons import nms_quadri as nms_quadri
from ._polygons import points_in_polygons_forward as points_in_polygons_forward
from ._pooling import deform_roi_pool_backward as deform_roi_pool_backward
from ._pooling import deform_roi_pool_forward as deform_roi_pool_forward
from ._pooling import roi_pool_backward as roi_pool_backward
from ._pooling import roi_pool_forward as roi_pool_forward
from ._resampling import carafe_backward as carafe_backward
from ._resampling import carafe_forward as carafe_forward
from ._resampling import carafe_naive_backward as carafe_naive_backward
from ._resampling import carafe_naive_forward as carafe_naive_forward
from ._resampling import masked_col2im_forward as masked_col2im_forward
from ._resampling import masked_im2col_forward as masked_im2col_forward
from ._rois import prroi_pool_backward as prroi_pool_backward
from ._rois import prroi_pool_coor_backward as prroi_pool_coor_backward
from ._rois import prroi_pool_forward as prroi_pool_forward
from ._rois import roi_align_backward as roi_align_backward
from ._rois import roi_align_forward as roi_align_forward
from ._rois import roi_align_rotated_backward as roi_align_rotated_backward
from ._rois import roi_align_rotated_forward as roi_align_rotated_forward


def get_compiler_version() -> str:
    return _C.build_info()["cxx"]


def get_compiling_cuda_version() -> str:
    return torch.version.cuda or "not available"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any other function: mmcv asks for all of them on import, long before one is called."""
    return _compiled.missing_function("mmcv._ext", __name__, name)
