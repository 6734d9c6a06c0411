"""Methods of torchvision's detectors that are shorter, faster or smaller with operators of detops.

A method that finds something other than what torchvision put there, such as a matcher of one's own, does as it did.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils, anchor_utils, retinanet, roi_heads, rpn
from torchvision.ops import boxes as box_ops
from torchvision.ops import misc, poolers

from ... import ops
from .functions import served
from .redirect import Replacement

_BOX_IOU, _ROI_ALIGN, _FOCAL_LOSS = box_ops.box_iou, poolers.roi_align, retinanet.sigmoid_focal_loss
_BETWEEN_THRESHOLDS = _utils.Matcher.BETWEEN_THRESHOLDS
_MOST_LEVELS = 8  # of one call of multi_scale_roi_align

_Method = Callable[..., Any]


def encode_single(original: _Method, self: Any, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
    """Of ``BoxCoder``."""
    fits = reference_boxes.shape == proposals.shape and _is_matrix(reference_boxes) and _is_matrix(proposals)
    if not (fits and served((reference_boxes, proposals))):
        return original(self, reference_boxes, proposals)
    dtype = torch.promote_types(reference_boxes.dtype, proposals.dtype)
    return ops.encode_boxes(reference_boxes.to(dtype), proposals, self.weights)


def decode_single(original: _Method, self: Any, rel_codes: Tensor, boxes: Tensor) -> Tensor:
    """Of ``BoxCoder``: (N, C * 4) codes of (N, 4) boxes."""
    fits = _is_matrix(rel_codes) and boxes.shape == (len(rel_codes), 4) and rel_codes.shape[1] % 4 == 0
    if not (fits and served((rel_codes, boxes))):
        return original(self, rel_codes, boxes)
    codes = rel_codes.reshape(len(boxes), rel_codes.shape[1] // 4, 4)
    anchors = boxes.to(rel_codes.dtype)[:, None]
    return ops.decode_boxes(codes, anchors, self.weights, self.bbox_xform_clip).flatten(1)


def generate_anchors(original: _Method, self: Any, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
    """Of ``AnchorGenerator``, its ``forward``: all levels in one pass, a tensor of its own for each image."""
    own = type(self).grid_anchors is anchor_utils.AnchorGenerator.grid_anchors
    if not (own and len(feature_maps) == len(self.cell_anchors) > 0 and served(feature_maps)):
        return original(self, image_list, feature_maps)
    self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
    height, width = image_list.tensors.shape[-2:]
    sizes = [(feature.shape[-2], feature.shape[-1]) for feature in feature_maps]
    anchors = ops.anchor_grid(self.cell_anchors, sizes, [(height // h, width // w) for h, w in sizes])
    images = len(image_list.image_sizes)
    return [anchors, *(anchors.clone() for _ in range(images - 1))][:images]


def pool_regions(
    original: _Method, self: Any, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
) -> Tensor:
    """Of ``MultiScaleRoIAlign``, its ``forward``: all levels in one launch."""
    features = [feature for name, feature in x.items() if name in self.featmap_names]
    if not (poolers.roi_align is _ROI_ALIGN and features and served((*features, *boxes))):
        return original(self, x, boxes, image_shapes)
    if self.scales is None or self.map_levels is None:
        self.scales, self.map_levels = poolers._setup_scales(
            features, image_shapes, self.canonical_scale, self.canonical_level
        )
    if not _is_pyramid(features, self.scales, self.map_levels):
        return original(self, x, boxes, image_shapes)
    mapper = self.map_levels
    return ops.multi_scale_roi_align(
        features, boxes, self.output_size, self.scales, self.sampling_ratio, mapper.s0, mapper.lvl0
    )


def _is_pyramid(features: list[Tensor], scales: Sequence[float], mapper: Any) -> bool:
    """Whether each level is half as large as the one before, of the same dtype, and mapped as torchvision does it."""
    return (
        type(mapper) is poolers.LevelMapper
        and mapper.eps == 1e-6
        and len(features) == len(scales) <= _MOST_LEVELS
        and all(coarse * 2 == fine for fine, coarse in itertools.pairwise(scales))
        and all(feature.dtype == features[0].dtype for feature in features)
    )


def assign_targets_to_anchors(
    original: _Method, self: Any, anchors: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Of ``RegionProposalNetwork``: 1 for objects, 0 for background, -1 between; and each anchor's box."""
    gt_boxes = [target["boxes"] for target in targets]
    if self.box_similarity is not _BOX_IOU or not _matchable(self.proposal_matcher, gt_boxes, anchors):
        return original(self, anchors, targets)
    labels, matched = [], []
    for boxes, places, match in zip(gt_boxes, anchors, _match(self.proposal_matcher, gt_boxes, anchors), strict=True):
        labels.append((match >= 0).float().masked_fill_(match == _BETWEEN_THRESHOLDS, -1))
        matched.append(boxes[match.clamp(min=0)] if len(boxes) else torch.zeros_like(places, dtype=torch.float32))
    return labels, matched


def assign_targets_to_proposals(
    original: _Method, self: Any, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Of ``RoIHeads``: each proposal's object, 0 where it has none; and its class, 0 for background, -1 between."""
    if box_ops.box_iou is not _BOX_IOU or not _matchable(self.proposal_matcher, gt_boxes, proposals):
        return original(self, proposals, gt_boxes, gt_labels)
    objects, labels = [], []
    for classes, match in zip(gt_labels, _match(self.proposal_matcher, gt_boxes, proposals), strict=True):
        found = match.clamp(min=0)
        of_found = classes[found].to(torch.int64) if len(classes) else torch.zeros_like(found)
        objects.append(found)
        labels.append(of_found.masked_fill(match < 0, 0).masked_fill_(match == _BETWEEN_THRESHOLDS, -1))
    return objects, labels


def retinanet_loss(
    original: _Method, self: Any, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: Any
) -> dict[str, Tensor]:
    """Of ``RetinaNet``, its ``compute_loss``."""
    gt_boxes = [target["boxes"] for target in targets]
    if box_ops.box_iou is not _BOX_IOU or not _matchable(self.proposal_matcher, gt_boxes, anchors):
        return original(self, targets, head_outputs, anchors)
    return self.head.compute_loss(targets, head_outputs, anchors, _match(self.proposal_matcher, gt_boxes, anchors))


def classification_loss(
    original: _Method,
    self: Any,
    targets: list[dict[str, Tensor]],
    head_outputs: dict[str, Tensor],
    matched_idxs: list[Tensor],
) -> Tensor:
    """Of ``RetinaNetClassificationHead``, its ``compute_loss``: no one-hot targets, no copies of the logits."""
    logits = head_outputs["cls_logits"]
    classes = [target["labels"] for target in targets]
    own = retinanet.sigmoid_focal_loss is _FOCAL_LOSS and len(targets) == len(logits) == len(matched_idxs) > 0
    if not (own and served((logits, *classes)) and all(_are_classes(c, logits.shape[-1]) for c in classes)):
        return original(self, targets, head_outputs, matched_idxs)
    losses = []
    for of_objects, of_anchors, match in zip(classes, logits, matched_idxs, strict=True):
        labels = torch.full_like(match, logits.shape[-1])  # background
        if len(of_objects):
            labels = torch.where(match >= 0, of_objects[match.clamp(min=0)], labels)
        labels = labels.masked_fill(match == _BETWEEN_THRESHOLDS, -1)
        loss = ops.sigmoid_focal_loss_from_labels(of_anchors, labels)
        losses.append(loss / (match >= 0).sum().clamp(min=1))
    return torch.stack(losses).sum() / len(targets)


def normalise(original: _Method, self: Any, x: Tensor) -> Tensor:
    """Of ``FrozenBatchNorm2d``, its ``forward``: one pass, where no gradient would have to keep the input for it."""
    alike = x.dim() == 4 and x.dtype == self.weight.dtype
    if not alike or (torch.is_grad_enabled() and x.requires_grad):
        return original(self, x)
    return ops.FrozenBatchNorm2d.forward(self, x)


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.is_floating_point()


def _are_classes(labels: Tensor, number: int) -> bool:
    """What a GPU holds is taken for it: looking would be waiting."""
    if labels.dtype is not torch.int64 or labels.dim() != 1:
        return False
    return not labels.is_cpu or bool(((labels >= 0) & (labels < number)).all())


def _matchable(matcher: Any, gt_boxes: Sequence[Tensor], boxes: Sequence[Tensor]) -> bool:
    """Whether it is torchvision's rule, of boxes that there are."""
    return (
        type(matcher) is _utils.Matcher
        and len(gt_boxes) == len(boxes) > 0
        and all(t.dim() == 2 and t.shape[1] == 4 for t in (*gt_boxes, *boxes))
        and all(len(t) > 0 for t in boxes)
        and served((*gt_boxes, *boxes))
    )


def _match(matcher: Any, gt_boxes: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
    """Of each image, all in one launch; matrices of overlaps are not stored."""
    thresholds = matcher.high_threshold, matcher.low_threshold
    return ops.match_boxes(gt_boxes, boxes, *thresholds, matcher.allow_low_quality_matches)[0]


METHODS: list[tuple[Any, Replacement]] = [
    (_utils.BoxCoder.encode_single, encode_single),
    (_utils.BoxCoder.decode_single, decode_single),
    (anchor_utils.AnchorGenerator.forward, generate_anchors),
    (poolers.MultiScaleRoIAlign.forward, pool_regions),
    (rpn.RegionProposalNetwork.assign_targets_to_anchors, assign_targets_to_anchors),
    (roi_heads.RoIHeads.assign_targets_to_proposals, assign_targets_to_proposals),
    (retinanet.RetinaNet.compute_loss, retinanet_loss),
    (retinanet.RetinaNetClassificationHead.compute_loss, classification_loss),
    (misc.FrozenBatchNorm2d.forward, normalise),
]
