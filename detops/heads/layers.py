"""What heads share: convolutions with normalisation, predictions as rows, and the choice of the best boxes."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import Detections, ImageBatch
from ..ops import decode_boxes, nms_padded, smooth_l1_loss
from ..ops._indices_above import indices_above

Norm = Callable[[int], nn.Module]
DeltaLoss = Callable[[Tensor, Tensor], Tensor]  # of deltas predicted and wanted, (N, 4) both; their sum
L1: DeltaLoss = partial(smooth_l1_loss, beta=0.0, reduction="sum")


def conv_block(in_channels: int, out_channels: int, norm_layer: Norm | None = None) -> nn.Sequential:
    """3×3 convolution, normalisation if any, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=norm_layer is None)
    if norm_layer is None:
        return nn.Sequential(convolution, nn.ReLU(inplace=True))
    return nn.Sequential(convolution, norm_layer(out_channels), nn.ReLU(inplace=True))


def initialise_normal(module: nn.Module, std: float = 0.01) -> None:
    """Convolutions with normal weights and no bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rows(prediction: Tensor, columns: int) -> Tensor:
    """Maps (B, A * columns, H, W) as rows (B, H * W * A, columns), in the order of the anchors."""
    # Image by image: PyTorch copies no permutation as fast as the transpose of a matrix.
    return torch.stack([image.flatten(1).t().contiguous().view(-1, columns) for image in prediction])


def all_rows(predictions: Sequence[Tensor], columns: int) -> Tensor:
    """The maps of all levels as rows, (B, N, columns)."""
    return torch.cat([rows(prediction, columns) for prediction in predictions], dim=1)


def gather_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of each image: (B, N, C) at (B, K) to (B, K, C)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def gather_from_map(prediction: Tensor, anchor: Tensor, location: Tensor, columns: int) -> Tensor:
    """Some of :func:`rows`: (B, A * columns, H, W) at anchors and locations in H * W (B, K) to (B, K, columns)."""
    column = torch.arange(columns, device=anchor.device)
    places = (anchor[..., None] * columns + column) * prediction[0, 0].numel() + location[..., None]
    return prediction.flatten(1).gather(1, places.flatten(1)).view(places.shape)


def best_scores(logits: Tensor, count: int, least: float) -> tuple[Tensor, Tensor]:
    """The highest of each image's logits (B, N) and their places, (B, min(count, N)), in descending order.

    On the CPU only those above ``least`` are sorted, -infinity stands for the others: a detector's logits are millions,
    of which some hundreds count.
    """
    count = min(count, logits.shape[1])
    if not logits.is_cpu or torch.compiler.is_compiling():
        best, places = logits.topk(count)
        return best, places
    best, places = logits.new_full((len(logits), count), -torch.inf), logits.new_zeros(len(logits), count).long()
    for i, image in enumerate(logits):
        candidates = indices_above(image, least)
        values, order = image[candidates].topk(min(count, len(candidates)))
        best[i, : len(values)], places[i, : len(values)] = values, candidates[order]
    return best, places


def decode_in_images(
    deltas: Tensor, anchors: Tensor, batch: ImageBatch, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Boxes (B, N, 4) clipped each to its image; anchors (N, 4) or (B, N, 4). In the precision of the anchors."""
    deltas, anchors = deltas.to(anchors.dtype), anchors.expand(deltas.shape)
    if len(set(batch.sizes)) == 1:
        return decode_boxes(deltas, anchors, weights, image_size=batch.sizes[0])
    images = zip(deltas, anchors, batch.sizes, strict=True)
    return torch.stack([decode_boxes(d, a, weights, image_size=size) for d, a, size in images])


def best_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, score_threshold: float, max_detections: int
) -> Detections:
    """What non-maximum suppression within each class leaves of each image's candidates.

    Args:
        boxes: (B, N, 4).
        scores: (B, N); those not above ``score_threshold`` are left out.
        labels: (B, N) or (N,), int64.
        iou_threshold: Overlap above which the lower score is dropped.
        score_threshold: See ``scores``.
        max_detections: How many to keep.
    """
    labels = labels.expand(scores.shape)
    if scores.shape[1] == 0:  # a place for the padding to point at
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1))
        scores = F.pad(scores, (0, 1), value=-torch.inf)
    keep, count = nms_padded(boxes, scores, iou_threshold, max_detections, labels, score_threshold)
    at = keep.clamp(min=0)
    return Detections(gather_rows(boxes, at), scores.gather(1, at), labels.gather(1, at), count)
