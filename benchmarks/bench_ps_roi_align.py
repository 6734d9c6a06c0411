"""Position-sensitive RoIAlign and RoI pooling against torchvision: R-FCN's score maps, and tiny ones."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .bench_roi_pool import agree_to_scale
from .common import Case

OPERATORS = ("ps_roi_align", "ps_roi_pool")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields forward, and forward with backward, on maps for 10 and for 81 channels of 7 x 7 bins, then tiny ones."""
    for op in OPERATORS:
        for channels, n in ((10, 300), (81, 300), (10, 2000)):
            features = workloads.pyramid_level(16, channels * 49).to(device, dtype)
            rois = workloads.to_rois(workloads.proposals_clustered(n)[0]).to(device)
            name = f"1x{channels * 49}x50x76, {n:,} boxes"
            yield case(op, name, features, rois, quick=channels == 10 and n == 300)
            if channels == 10:
                rois[:, 1:].clamp_(min=0, max=700)  # torchvision's gradient of pooling is wrong at the border
                yield case(op, f"{name}, forward and backward", features, rois, backward=True)
        tiny = torch.randn(1, 8, 8, 8, generator=workloads.generator(0)).to(device, dtype)
        yield case(op, "1x8x8x8, 1 box, 2 x 2 bins", tiny, torch.tensor([[0.0, 1, 1, 6, 6]], device=device), 2, 1.0)


def case(
    op: str,
    name: str,
    features: Tensor,
    rois: Tensor,
    size: int = 7,
    scale: float = 1 / 16,
    quick: bool = False,
    backward: bool = False,
) -> Case:
    """One call; torchvision has no half precision on the CPU, and wants boxes of the features' dtype."""
    more = (2,) if op == "ps_roi_align" else ()
    grad = torch.randn(len(rois), features.shape[1] // size**2, size, size, generator=workloads.generator(1))
    grad, leaf = grad.to(features), features.detach().clone().requires_grad_()

    def side(function: Callable[..., Tensor], boxes: Tensor) -> Callable[[], Any]:
        if backward:
            return lambda: torch.autograd.grad(function(leaf, boxes, size, scale, *more), leaf, grad)[0]
        return lambda: function(features, boxes, size, scale, *more)

    run = {"detops": side(getattr(detops.ops, op), rois)}
    note = ""
    if features.dtype in (torch.float32, torch.float64) or features.is_cuda:
        run["torchvision"] = side(getattr(torchvision.ops, op), rois.to(features.dtype))
    else:
        note = "torchvision has no half precision"
    pooled = len(rois) * features.shape[1] * features.itemsize
    least = min(features.nbytes, pooled) + rois.nbytes + pooled
    return Case(op, name, run, least * (1 + backward), check=agree_to_scale, quick=quick, note=note)
