"""Semantic segmentation on the detectors' backbones: backbone → optional encoder → decoder → softmax per pixel."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import backbones, necks
from .images import IGNORED, IMAGENET_MEAN, IMAGENET_STD, ImageBatch, ImageTransform
from .levels import Levels
from .necks import FPN, Neck


class SemanticSegmenter(nn.Module):
    """A label for each pixel.

    In training ``model(images, targets)`` gives a dict of losses, in evaluation ``model(images)`` a list with the
    probabilities of all classes in each pixel of each image, (num_classes, H, W).

    Args:
        transform: Images to a batch.
        backbone: (B, 3, H, W) to a list of features, with ``channels`` and ``strides``.
        neck: Features to features of one number of channels, with ``channels`` and ``strides``.
        decoder: The neck's features to logits at the stride of the finest.
        encoder: Lets the coarsest features see each other; None: they do not.
    """

    def __init__(
        self,
        transform: ImageTransform,
        backbone: Levels,
        neck: nn.Module,
        decoder: nn.Module,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.transform, self.backbone = transform, backbone
        self.encoder = nn.Identity() if encoder is None else encoder
        self.neck, self.decoder = neck, decoder

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Tensor] | Tensor | None = None
    ) -> dict[str, Tensor] | list[Tensor]:
        """Losses in training, probabilities in evaluation.

        Args:
            images: Each (3, H, W), floating, values in 0 to 1; sizes may differ.
            targets: In training, of each image the classes of its pixels (H, W), integers; 255: of no class.

        Raises:
            ValueError: If an image or target is not as above: the message names it.
        """
        batch = self.transform(images)
        if not self.training:
            return [
                F.interpolate(each[None, :, :h, :w], size=original, mode="bilinear")[0].softmax(dim=0)
                for each, (h, w), original in zip(self.logits(batch), batch.sizes, batch.original_sizes, strict=True)
            ]
        classes = _batched_targets(targets, batch)
        logits = self.logits(batch)
        _check_classes(classes, logits.shape[1])
        total = F.cross_entropy(logits.float(), classes, ignore_index=IGNORED, reduction="sum")
        return {"segmentation": total / (classes != IGNORED).sum().clamp(min=1)}

    def logits(self, batch: ImageBatch) -> Tensor:
        """(B, num_classes, H, W), of the pixels of the batch."""
        *fine, coarsest = self.backbone(batch.tensors)
        logits = self.decoder(self.neck([*fine, self.encoder(coarsest)]))
        return F.interpolate(logits, size=batch.tensors.shape[-2:], mode="bilinear")


class PatchEncoder(nn.Module):
    """A transformer over the features as patches; its answer is added to them.

    "An Image is Worth 16x16 Words" (https://arxiv.org/abs/2010.11929) on a network's features, as its hybrid; sines and
    cosines of both coordinates say where a patch is (https://arxiv.org/abs/2005.12872, section A.4), whatever the
    image's size.

    Args:
        in_channels: Of the features.
        layers: Of the transformer.
        channels: Inside; a multiple of 4 and of ``heads``.
        heads: Of the attention.
    """

    def __init__(self, in_channels: int, layers: int, channels: int = 128, heads: int = 4) -> None:
        super().__init__()
        if channels % 4 or channels % heads:
            raise ValueError(f"PatchEncoder: expected channels a multiple of 4 and of heads {heads}, got {channels}")
        self.project = nn.Conv2d(in_channels, channels, 1)
        layer = nn.TransformerEncoderLayer(
            channels, heads, 4 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(channels), enable_nested_tensor=False)
        self.restore = nn.Conv2d(channels, in_channels, 1)
        for parameter in self.restore.parameters():  # at first the features go through as they are
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to the same shape."""
        x = self.project(features)
        patches = (x + _positions(*x.shape[1:]).to(x)).flatten(2).transpose(1, 2)  # (B, H * W, channels)
        return features + self.restore(self.layers(patches).transpose(1, 2).view_as(x))


class PyramidDecoder(nn.Module):
    """Every level of a pyramid brought to the finest one's size by convolutions, then added up.

    The semantic branch of "Panoptic Feature Pyramid Networks" (https://arxiv.org/abs/1901.02446, section 3.1).

    Args:
        channels: Of the levels, all equal.
        strides: Of the levels, finest first.
        num_classes: Of the logits.
        width: Channels inside; a multiple of 8.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for in_channels, stride in zip(channels, strides, strict=True):
            doublings = round(math.log2(stride / strides[0]))
            stages: list[nn.Module] = []
            for i in range(max(doublings, 1)):
                stages += [
                    nn.Conv2d(width if i else in_channels, width, 3, padding=1, bias=False),
                    nn.GroupNorm(8, width),
                    nn.ReLU(inplace=True),
                ]
                if doublings:
                    stages.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.levels.append(nn.Sequential(*stages))
        self.predict = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Levels (B, channels[i], H_i, W_i) to logits (B, num_classes, H_0, W_0)."""
        size = features[0].shape[-2:]
        total = features[0].new_zeros(())
        for level, feature in zip(self.levels, features, strict=True):
            total = total + level(feature)[:, :, : size[0], : size[1]]
        return self.predict(total)


def build(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    neck: Neck | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    encoder_layers: int = 0,
    width: int = 128,
    size: int | None = None,
    pretrained_backbone: bool = False,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    **options: Any,
) -> SemanticSegmenter:
    """A segmenter on any backbone.

    Args:
        backbone: Name, see :func:`detops.backbones.build`, or module.
        num_classes: Classes are 0 to ``num_classes`` - 1, the background among them.
        neck: Module, or what makes one for a backbone's channels and strides; None: FPN.
        strides: Of the backbone's levels.
        encoder_layers: Of a transformer over the coarsest features (:class:`PatchEncoder`); 0: none.
        width: Channels of the pyramid and of the decoder.
        size: Pixels that the shorter side of every image is resized to; None: images stay as they are.
        pretrained_backbone: Fetch published weights.
        frozen_stages: Leading stages of the backbone that are not trained.
        frozen_batch_norm: Batch normalisation with fixed statistics.
        image_mean: Of each channel.
        image_std: Of each channel.
        options: Further ones of :class:`PatchEncoder`: ``channels`` and ``heads``.
    """
    body = backbones.build(
        backbone,
        strides,
        pretrained=pretrained_backbone,
        frozen_stages=frozen_stages,
        frozen_batch_norm=frozen_batch_norm,
    )
    pyramid = necks.build(neck, partial(FPN, out_channels=width), body)
    encoder = PatchEncoder(body.channels[-1], encoder_layers, **options) if encoder_layers else None
    transform = ImageTransform(
        size, max_size=2 * size if size else 0, image_mean=image_mean, image_std=image_std, size_divisible=strides[-1]
    )
    decoder = PyramidDecoder(pyramid.channels, pyramid.strides, num_classes, width)
    return SemanticSegmenter(transform, body, pyramid, decoder, encoder)


def _positions(channels: int, height: int, width: int) -> Tensor:
    """(channels, H, W): sines and cosines of y, then of x."""
    frequencies = 10000 ** (-torch.arange(channels // 4) / (channels // 4))
    y, x = (torch.arange(n)[None] * frequencies[:, None] for n in (height, width))  # (channels / 4, n)
    y, x = torch.cat([y.sin(), y.cos()]), torch.cat([x.sin(), x.cos()])
    return torch.cat([y[:, :, None].expand(-1, -1, width), x[:, None].expand(-1, height, -1)])


def _batched_targets(targets: Sequence[Tensor] | Tensor | None, batch: ImageBatch) -> Tensor:
    """(B, H, W) int64, resized with the images; the padding is of no class."""
    if targets is None:
        raise ValueError("expected targets in training, got None")
    if len(targets) != len(batch.sizes):
        raise ValueError(f"expected targets of {len(batch.sizes)} images, got {len(targets)}")
    B, _, H, W = batch.tensors.shape
    result = torch.full((B, H, W), IGNORED, dtype=torch.int64, device=batch.tensors.device)
    for i, (target, (h, w), original) in enumerate(zip(targets, batch.sizes, batch.original_sizes, strict=True)):
        if target.shape != original or target.is_floating_point():
            raise ValueError(
                f"expected targets[{i}] {tuple(original)} of integers, got {tuple(target.shape)} of {target.dtype}"
            )
        if (h, w) != original:
            target = F.interpolate(target[None, None].float(), size=(h, w), mode="nearest-exact")[0, 0]
        result[i, :h, :w] = target
    return result


def _check_classes(targets: Tensor, num_classes: int) -> None:
    wrong = (targets != IGNORED) & ((targets < 0) | (targets >= num_classes))
    if wrong.any():
        i, y, x = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"expected classes from 0 to {num_classes - 1}, or {IGNORED} for none, got {int(targets[i, y, x])}"
            f" in targets[{i}]"
        )
