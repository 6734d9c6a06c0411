"""Segmenters on the detectors' backbones."""

import pytest
import torch

from detops import segmenters
from detops.segmenters import PatchEncoder, PyramidDecoder

OPTIONS = {"width": 16, "channels": 16, "heads": 2}


def _halves(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """An image that is bright in the right half, and that half as class 1."""
    target = torch.zeros(size, dtype=torch.uint8)
    target[:, size[1] // 2 :] = 1
    return 0.1 * torch.rand(3, *size) + 0.8 * target, target


@pytest.mark.parametrize("layers", [0, 1])
def test_learns_two_halves(layers: int) -> None:
    torch.manual_seed(1)
    model = segmenters.build("resnet10t", 2, encoder_layers=layers, **OPTIONS if layers else {"width": 16})
    images, targets = zip(*(_halves(size) for size in ((64, 64), (50, 40))), strict=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        loss = model.train()(images, targets)["segmentation"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.3
    with torch.no_grad():
        found = model.eval()(images)
    for probabilities, target in zip(found, targets, strict=True):
        assert probabilities.shape == (2, *target.shape)
        torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(target.shape))


def test_pixels_of_no_class_and_padding_do_not_count() -> None:
    model = segmenters.build("resnet10t", 2, width=16).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    image, target = _halves((64, 64))
    half = target.clone()
    half[32:] = segmenters.IGNORED
    logits = model.logits(model.transform([image]))
    expected = torch.nn.functional.cross_entropy(logits[:, :, :32], target[None, :32].long())
    torch.testing.assert_close(model([image], [half])["segmentation"], expected)
    ignored = model([image], [torch.full((64, 64), segmenters.IGNORED)])["segmentation"]
    assert float(ignored.detach()) == 0
    smaller, of_smaller = _halves((40, 64))
    alone = model([smaller], [of_smaller])["segmentation"]
    bigger = model([smaller, image], [of_smaller, torch.full((64, 64), segmenters.IGNORED)])["segmentation"]
    torch.testing.assert_close(alone, bigger)


def test_sizes() -> None:
    model = segmenters.build("resnet10t", 3, width=16, size=64).eval()
    with torch.no_grad():
        found = model([torch.rand(3, 100, 80), torch.rand(3, 33, 70)])
    assert [tuple(each.shape) for each in found] == [(3, 100, 80), (3, 33, 70)]


def test_encoder_lets_features_see_each_other() -> None:
    encoder = PatchEncoder(8, 1, channels=16, heads=2)
    features = torch.randn(1, 8, 3, 4)
    torch.testing.assert_close(encoder(features), features)  # at first
    torch.nn.init.normal_(encoder.restore.weight)
    features.requires_grad_()
    (grad,) = torch.autograd.grad(encoder(features)[0, :, 0, 0].sum(), features)
    assert (grad[0].abs().sum(dim=0) > 0).all()
    moved = encoder(features.flip(3)).flip(3)
    assert not torch.allclose(moved, encoder(features))  # positions count


def test_decoder_brings_odd_sizes_together() -> None:
    decoder = PyramidDecoder([8, 8, 8], [4, 8, 16], 5, width=8)
    features = [torch.randn(2, 8, 7, 9), torch.randn(2, 8, 4, 5), torch.randn(2, 8, 2, 3)]
    assert decoder(features).shape == (2, 5, 7, 9)


def test_says_what_is_wrong() -> None:
    model = segmenters.build("resnet10t", 2, width=16).train()
    image, target = _halves((64, 64))
    for targets, message in (
        (None, "expected targets in training, got None"),
        ([target, target], "expected targets of 1 images, got 2"),
        ([target[:8]], r"expected targets\[0\] \(64, 64\) of integers, got \(8, 64\)"),
        ([target.float()], "got .* of torch.float32"),
        ([target * 7], r"expected classes from 0 to 1, or 255 for none, got 7 in targets\[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model([image], targets)
    with pytest.raises(ValueError, match="a multiple of 4 and of heads 3, got 16"):
        PatchEncoder(8, 1, channels=16, heads=3)
