"""torchvision's detector beside ours, with the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detops import detectors
from detops.detectors import Detector

torchvision = pytest.importorskip("torchvision", reason="the detectors are compared with torchvision's")
detection = torchvision.models.detection

NAMES = [name for name in detectors.names() if hasattr(detection, name) or name == "fasterrcnn_vgg16"]
CLASSES = 7

# Small images, few proposals, and all anchors and regions in the losses: no random draws.
_SMALL: dict[str, Any] = {"min_size": 96, "max_size": 160}
_RCNN: dict[str, Any] = _SMALL | {
    "rpn_post_nms_top_n_train": 12,
    "rpn_post_nms_top_n_test": 60,
    "rpn_batch_size_per_image": 1_000_000,
    "box_batch_size_per_image": 1_000_000,
}


def _options(name: str) -> dict[str, Any]:
    if name.startswith("faster"):
        return _RCNN
    return {} if name.startswith("ssd") else _SMALL | {"score_thresh": 0.008}


def theirs(name: str, num_classes: int = CLASSES, **changes: Any) -> nn.Module:
    if name == "fasterrcnn_vgg16":
        return _fasterrcnn_vgg16(num_classes, **changes)
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes, **changes)


def pair(name: str, seed: int = 0, **changes: Any) -> tuple[nn.Module, Detector]:
    """Both, torchvision's first, in evaluation mode, both float64."""
    torch.manual_seed(seed)
    wanted = _options(name) | changes
    reference = theirs(name, **wanted)
    disturb(reference)
    ours = detectors.convert.load(detectors.build(name, num_classes=CLASSES, **wanted), reference.state_dict())
    return reference.double().eval(), ours.double().eval()


def disturb(model: nn.Module) -> None:
    """Weights that are far from their initial ones, so that scores, boxes and statistics differ from each other."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            predicts = any(part in name for part in ("cls_", "bbox_", "module_list"))
            fan_in = parameter[0].numel()
            scale = 0.1 if parameter.dim() == 1 else (0.3 if predicts else 0.05) / fan_in**0.5
            parameter += torch.randn_like(parameter) * scale
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.05 * torch.randn_like(buffer)
            elif name.endswith("running_var"):
                buffer *= 1 + 0.1 * torch.rand_like(buffer)


def images(*sizes: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def target(size: tuple[int, int], objects: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> dict[str, Tensor]:
    """Boxes of any size within an image, some of them over its border."""
    generator = torch.Generator().manual_seed(seed + objects)
    height, width = size
    centres = torch.rand(objects, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height])
    sides = 4 + torch.rand(objects, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1).to(dtype)
    return {"boxes": boxes, "labels": torch.randint(1, CLASSES, (objects,), generator=generator)}


def renamed(reference: nn.Module, ours: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values by torchvision's parameter names, by ours."""
    return detectors.convert.renamed_as_ours(values, ours)


class _RoIPool(torchvision.ops.MultiScaleRoIAlign):
    """RoI pooling of one level in the place of torchvision's pyramid."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        return torchvision.ops.roi_pool(x["0"], boxes, 7, 1 / 16)


def _fasterrcnn_vgg16(num_classes: int, **changes: Any) -> nn.Module:
    backbone = torchvision.models.vgg16().features[:-1]
    backbone.out_channels = 512
    paper = {
        "min_size": 600,
        "max_size": 1000,
        "rpn_pre_nms_top_n_train": 12000,
        "rpn_pre_nms_top_n_test": 6000,
        "rpn_post_nms_top_n_test": 300,
        "box_batch_size_per_image": 128,
        "box_nms_thresh": 0.3,
    }
    return detection.FasterRCNN(
        backbone,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=_RoIPool(["0"], 7, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(512 * 7**2, 4096),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(4096, num_classes),
        **paper | changes,
    )
