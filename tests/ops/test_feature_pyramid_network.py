from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detops.ops import FeaturePyramidNetwork
from detops.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

CHANNELS = [3, 5, 7]
EXTRA: dict[str, Callable[[], ExtraFPNBlock | None]] = {
    "none": lambda: None,
    "pool": LastLevelMaxPool,
    "from the pyramid": lambda: LastLevelP6P7(4, 4),
    "from the backbone": lambda: LastLevelP6P7(7, 4),
}


def levels(sides: tuple[int, ...] = (13, 7, 4)) -> dict[str, Tensor]:
    """Odd sizes: no level is exactly half of the one before."""
    return OrderedDict(
        (f"c{i}", torch.randn(2, channels, side, side + 1))
        for i, (channels, side) in enumerate(zip(CHANNELS, sides, strict=True))
    )


def test_by_hand() -> None:
    fpn = FeaturePyramidNetwork([1, 1], 1, LastLevelMaxPool())
    for inner, layer in zip(fpn.inner_blocks, fpn.layer_blocks, strict=True):
        nn.init.constant_(inner[0].weight, 2)
        nn.init.dirac_(layer[0].weight)
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    out = fpn({"fine": fine, "coarse": coarse})
    assert list(out) == ["fine", "coarse", "pool"]
    assert torch.equal(out["coarse"], 2 * coarse)
    assert torch.equal(out["fine"], 2 * fine + 2 * coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(out["pool"], torch.tensor([[[[20.0]]]]))


@pytest.mark.parametrize("norm_layer", [None, nn.BatchNorm2d], ids=["plain", "normalised"])
@pytest.mark.parametrize("extra", EXTRA)
def test_agrees_with_torchvision(extra: str, norm_layer: Callable[..., nn.Module] | None) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.feature_pyramid_network
    theirs_extra = {
        "none": lambda: None,
        "pool": peer.LastLevelMaxPool,
        "from the pyramid": lambda: peer.LastLevelP6P7(4, 4),
        "from the backbone": lambda: peer.LastLevelP6P7(7, 4),
    }[extra]()
    torch.manual_seed(1)
    theirs = peer.FeaturePyramidNetwork(CHANNELS, 4, theirs_extra, norm_layer)
    ours = FeaturePyramidNetwork(CHANNELS, 4, EXTRA[extra](), norm_layer)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = levels()
    actual, expected = ours(x), theirs(x)
    assert isinstance(actual, OrderedDict)
    assert list(actual) == list(expected)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-6, atol=1e-6)


def test_same_initial_weights_as_torchvision() -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.feature_pyramid_network
    torch.manual_seed(1)
    theirs = peer.FeaturePyramidNetwork(CHANNELS, 64)
    torch.manual_seed(1)
    ours = FeaturePyramidNetwork(CHANNELS, 64)
    for name, tensor in ours.state_dict().items():
        other = theirs.state_dict()[name]
        if name.endswith("bias"):
            assert torch.equal(tensor, other)
        else:
            assert tensor.std() == pytest.approx(other.std().item(), rel=0.1)
            assert tensor.abs().max() == pytest.approx(other.abs().max().item(), rel=0.1)


def test_old_state_dicts_load() -> None:
    fpn = FeaturePyramidNetwork(CHANNELS, 4)
    state = fpn.state_dict()
    old = OrderedDict()
    for name, tensor in state.items():
        block, index, _, kind = name.split(".")
        old[f"{block}.{index}.{kind}"] = tensor + 1
    fpn.load_state_dict(old, strict=True)
    assert torch.equal(fpn.inner_blocks[1][0].weight, old["inner_blocks.1.weight"])


def test_compiles_and_differentiates() -> None:
    fpn, x = FeaturePyramidNetwork(CHANNELS, 4, LastLevelP6P7(4, 4)), levels()
    compiled = torch.compile(fpn, fullgraph=True, backend="aot_eager")(x)
    for name, level in fpn(x).items():
        torch.testing.assert_close(compiled[name], level)
    sum(level.sum() for level in compiled.values()).backward()
    assert all(parameter.grad is not None for parameter in fpn.parameters())


def test_no_channels() -> None:
    with pytest.raises(ValueError, match=r"FeaturePyramidNetwork: expected in_channels_list positive, got \[4, 0\]"):
        FeaturePyramidNetwork([4, 0], 8)
