"""Necks: their levels, and what they do to them, worked out by hand."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from detops.necks import FPN, NASFPN, PAN, BalancedPyramid
from detops.necks.balanced import NonLocal, integrate, scatter

CHANNELS, STRIDES = [4, 6, 8], [8, 16, 32]
NECKS: dict[str, Callable[[list[int], list[int]], nn.Module]] = {
    "FPN": partial(FPN, out_channels=16, extra="c6p7_linear"),
    "PAN": partial(PAN, out_channels=16),
    "PAN with one more": partial(PAN, out_channels=16, extra="pool", norm_layer=nn.BatchNorm2d),
    "NAS-FPN": partial(NASFPN, out_channels=16, repeats=2),
    "balanced": lambda *levels: BalancedPyramid(PAN(*levels, out_channels=16), refine_level=1),
}


def _features(size: int = 256, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(batch, channels, size // stride, size // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", NECKS)
def test_levels_have_the_channels_and_strides_that_it_says(name: str) -> None:
    neck = NECKS[name](CHANNELS, STRIDES)
    levels = neck(_features())
    assert [level.shape[1:] for level in levels] == [
        (channels, 256 // stride, 256 // stride) for channels, stride in zip(neck.channels, neck.strides, strict=True)
    ]
    assert neck.strides == [8, 16, 32, 64, 128][: len(levels)]
    sum(level.square().sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


@pytest.mark.parametrize("name", NECKS)
def test_levels_of_odd_sizes(name: str) -> None:
    neck = NECKS[name](CHANNELS, STRIDES).eval()
    features = [torch.rand(1, n, *size) for n, size in zip(CHANNELS, [(25, 19), (13, 10), (7, 5)], strict=True)]
    with torch.no_grad():
        levels = neck(features)
    assert [level.shape[2:] for level in levels[:3]] == [feature.shape[2:] for feature in features]


def test_bottom_up_path_by_hand() -> None:
    neck = PAN([1, 1], [8, 16], out_channels=1)
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):  # each passes the middle of its window
            nn.init.zeros_(module.weight)
            module.weight.data[..., module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
    neck.down[0][0].weight.data *= 3
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.full((1, 1, 2, 2), 100.0)
    levels = neck([fine, coarse])
    assert levels[0].equal(fine + 100)
    assert levels[1].flatten().tolist() == [100 + 3 * (100 + value) for value in (0, 2, 8, 10)]


def test_integrate_and_scatter_by_hand() -> None:
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    middle = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    coarse = torch.tensor([30.0]).view(1, 1, 1, 1)
    mean = integrate([fine, middle, coarse], 1)
    assert (3 * mean).flatten().tolist() == pytest.approx([5 + 1 + 30, 7 + 2 + 30, 13 + 3 + 30, 15 + 4 + 30])
    refined = torch.tensor([[10.0, 20], [30, 40]]).view(1, 1, 2, 2)
    first, second, third = scatter(refined, [fine, middle, coarse], 1)
    assert (first - fine)[0, 0].tolist() == [[10, 10, 20, 20]] * 2 + [[30, 30, 40, 40]] * 2
    assert second.equal(middle + refined)
    assert third.item() == 70


def test_non_local_block_by_the_formula() -> None:
    block = NonLocal(4)
    x = torch.rand(2, 4, 3, 5)
    torch.testing.assert_close(block(x), x)  # at first it changes nothing
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    query, key, value = (f(x).flatten(2) for f in (block.query, block.key, block.value))
    weights = torch.einsum("bci,bcj->bij", query, key).exp()
    mixed = torch.einsum("bij,bcj->bci", weights / weights.sum(dim=2, keepdim=True), value).view(x.shape)
    torch.testing.assert_close(block(x), x + block.out(mixed))


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="PAN: expected extra of None, 'pool', got 'p6p7'"):
        PAN(CHANNELS, STRIDES, extra="p6p7")
    with pytest.raises(ValueError, match="NASFPN: expected 1 to 5 levels, got 6"):
        NASFPN([4] * 6, [2, 4, 8, 16, 32, 64])
    with pytest.raises(ValueError, match="BalancedPyramid: expected refine_level from 0 to 2, got 3"):
        BalancedPyramid(FPN(CHANNELS, STRIDES), refine_level=3)
    uneven = FPN(CHANNELS, STRIDES)
    uneven.channels = [256, 256, 128]
    with pytest.raises(ValueError, match=r"levels of as many channels, got \[256, 256, 128\]"):
        BalancedPyramid(uneven)
