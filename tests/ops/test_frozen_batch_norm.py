import pytest
import torch
from torch import Tensor, nn

from detops.ops import FrozenBatchNorm2d


def trained(features: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    """With statistics and parameters that are not the initial ones, in evaluation."""
    norm = nn.BatchNorm2d(features, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(features) + 0.1)
    return norm.to(dtype).eval()


def frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    module = FrozenBatchNorm2d(norm.num_features, eps=norm.eps).to(norm.weight.dtype)
    module.load_state_dict(norm.state_dict(), strict=True)
    return module


def by_definition(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    out = torch.empty_like(x, dtype=torch.float64)
    for c in range(x.shape[1]):
        mean, variance = norm.running_mean[c].item(), norm.running_var[c].item()
        normal = (x[:, c].double() - mean) / (variance + norm.eps) ** 0.5
        out[:, c] = normal * norm.weight[c].item() + norm.bias[c].item()
    return out


def test_by_hand() -> None:
    module = FrozenBatchNorm2d(1, eps=0.0)
    for name, value in (("weight", 3.0), ("bias", 1.0), ("running_mean", 2.0), ("running_var", 4.0)):
        getattr(module, name).fill_(value)
    assert module(torch.tensor([[[[4.0, 2.0]]]])).tolist() == [[[[4.0, 1.0]]]]


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 5, 1, 1), (0, 5, 4, 3)])
def test_matches_the_definition(shape: tuple[int, ...]) -> None:
    norm, x = trained(5), torch.randn(shape)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(frozen(norm)(given), by_definition(x, norm).float(), rtol=1e-6, atol=1e-6)


def test_agrees_with_torchvision() -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.FrozenBatchNorm2d
    for dtype in (torch.float32, torch.float64):
        norm = trained(6, dtype)
        theirs = peer(6, eps=norm.eps).to(dtype)
        theirs.load_state_dict(norm.state_dict())
        ours = FrozenBatchNorm2d(6, eps=norm.eps).to(dtype)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        for x in (torch.randn(2, 6, 3, 4), torch.randn(6, 3, 4)):
            for given in (x.to(dtype), x.half(), x.bfloat16()):
                actual, expected = ours(given), theirs(given)
                assert actual.dtype == expected.dtype
                torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_nothing_to_train() -> None:
    module = FrozenBatchNorm2d(3)
    assert not list(module.parameters())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(frozen(trained(3, torch.float64)), (x,))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.train()(torch.randn(2, 3, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_compiles() -> None:
    module, x = frozen(trained(4)), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))
