"""Bilinear samples at any points of feature maps, in plain PyTorch: for operators that have no kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_PIXELS = 2**24  # of a bin with a sample to each pixel; one of more has none, as in the kernels


def bilinear(maps: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Samples at points given in pixels; up to a pixel outside the map from its edge, further out zero.

    Args:
        maps: (N, C, H, W).
        images: Index in the batch, (K,).
        y: (K, C, ...) or, the same for all channels, (K, 1, ...).
        x: Likewise.

    Returns:
        (K, C, ...), differentiable in ``maps``, ``y`` and ``x``.
    """
    _, C, H, W = maps.shape
    on_map = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = (torch.where(on_map, at, 0.0).clamp(0, size - 1) for at, size in ((y, H), (x, W)))
    top, left = (at.detach().floor().long() for at in (y, x))
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    down, across = y - top, x - left

    image = images.long().reshape(-1, *[1] * (y.dim() - 1))
    channel = torch.arange(C, device=maps.device).reshape(1, C, *[1] * (y.dim() - 2))
    upper = maps[image, channel, top, left] * (1 - across) + maps[image, channel, top, right] * across
    lower = maps[image, channel, bottom, left] * (1 - across) + maps[image, channel, bottom, right] * across
    return torch.where(on_map, upper * (1 - down) + lower * down, 0.0)


@dataclass(frozen=True)
class Grid:
    """Where regions are sampled.

    Args:
        rois: (K, 5) as (image, x1, y1, x2, y2) in image pixels.
        spatial_scale: Feature pixels per image pixel.
        height: Bins down a region.
        width: Bins across it.
        sampling_ratio: Samples along each axis of a bin; 0: one to the pixel.
        aligned: Whether pixel centres lie at half integers; if not, regions are at least a pixel wide and high.
    """

    rois: Tensor
    spatial_scale: float
    height: int
    width: int
    sampling_ratio: int
    aligned: bool

    @property
    def images(self) -> Tensor:
        return self.rois[:, 0]

    def extents(self) -> Tensor:
        """Width and height of the regions in feature pixels, (K, 2)."""
        corners = self._corners()
        extents = corners[:, 2:] - corners[:, :2]
        return extents if self.aligned else extents.clamp(min=1)

    def counts(self) -> Tensor:
        """Samples of a bin along x and y, (K, 2)."""
        bins = self._bins()
        if self.sampling_ratio > 0:
            return torch.full_like(bins, self.sampling_ratio)
        return torch.where((bins > 0) & (bins <= _MOST_PIXELS), bins.ceil(), 0.0)

    def samples(self, shift: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One sample of all bins after the other, by rows.

        Args:
            shift: Of the bins in feature pixels, as (x, y), (K, 2, PH, PW).

        Yields:
            y and x in pixels, (K, 1, PH, PW) each, and whether the region has this sample, (K, 1, 1, 1).
        """
        counts = self.counts()
        across, down = counts.amax(0).int().tolist() if len(counts) else (0, 0)
        for iy in range(down):
            for ix in range(across):
                y, x = (
                    self._centres(1, iy, self.height)[:, None, :, None],
                    self._centres(0, ix, self.width)[:, None, None],
                )
                if shift is not None:
                    y, x = y + shift[:, 1:], x + shift[:, :1]
                present = (ix < counts[:, 0]) & (iy < counts[:, 1])
                y, x = torch.broadcast_tensors(y, x)
                yield y, x, present[:, None, None, None]

    def _centres(self, axis: int, sample: int, bins: int) -> Tensor:
        """Where along one axis a sample of each bin lies, (K, bins)."""
        within = (sample + 0.5) / self.counts()[:, axis, None].clamp(min=1)
        steps = torch.arange(bins, device=self.rois.device) + within
        return self._corners()[:, axis, None] + steps * self._bins()[:, axis, None]

    def _corners(self) -> Tensor:
        rois = self.rois if self.rois.dtype == torch.float64 else self.rois.float()
        return rois[:, 1:] * self.spatial_scale - (0.5 if self.aligned else 0.0)

    def _bins(self) -> Tensor:
        """Width and height of a bin, (K, 2)."""
        return self.extents() / torch.tensor([self.width, self.height], device=self.rois.device)
