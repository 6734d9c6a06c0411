import math
from collections import OrderedDict
from collections.abc import Sequence

import pytest
import regions
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import INF, NAN, boxes_by_image
from torch import Tensor

from detops.ops import MultiScaleRoIAlign, multi_scale_roi_align, roi_align

FIXED = settings(max_examples=20, deadline=None, derandomize=True)
SCALES = (1.0, 0.5, 0.25)  # levels 0, 1, 2
SMALL = {"canonical_scale": 8, "canonical_level": 1}  # regions of 8 x 8 pixels belong to the second


def level_of(box: Sequence[float], scales: Sequence[float], scale: float, level: int) -> int:
    """The index of a region's map: equation 1, clamped to the levels there are."""
    x1, y1, x2, y2 = box
    area = (x2 - x1) * (y2 - y1)
    own = -INF if area == 0 else math.floor(level + math.log2(math.sqrt(area) / scale) + 1e-6)
    levels = [-math.log2(s) for s in scales]
    return int(levels.index(min(max(own, levels[0]), levels[-1])))


def indices(rois: Tensor, scales: Sequence[float] = SCALES, scale: float = 8, level: int = 1) -> Tensor:
    found = [level_of(box, scales, scale, level) for box in rois[:, 1:].tolist()]
    return torch.tensor(found, dtype=torch.int64, device=rois.device)


def reference(
    features: Sequence[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: Sequence[float],
    ratio: int = 2,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    aligned: bool = False,
) -> Tensor:
    """From the papers: each region from the map of its level."""
    output = torch.zeros(len(rois), features[0].shape[1], *size, dtype=torch.float64)
    for k, index in enumerate(indices(rois, scales, canonical_scale, canonical_level).tolist()):
        output[k] = regions.aligned_means(features[index], rois[k, None], size, scales[index], ratio, aligned)[0]
    return output


def level_by_level(
    features: Sequence[Tensor], rois: Tensor, scales: Sequence[float] = SCALES, scale: float = 8, level: int = 1
) -> Tensor:
    """Every region on every map, then the one of its level."""
    pooled = [roi_align(maps, rois, 3, s, 2) for maps, s in zip(features, scales, strict=True)]
    return torch.stack(pooled)[indices(rois, scales, scale, level), torch.arange(len(rois))]


def pyramid(images: int, channels: int, height: int, width: int, levels: int = 3) -> list[Tensor]:
    """Maps of scales 1, 1/2, ...; values in eighths, exact in every dtype."""
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels)]
    return [torch.randint(-16, 16, (images, channels, *size)).double() / 8 for size in sizes]


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions from a quarter of a pixel to the whole image and beyond its edges; coordinates in quarters."""
    corners = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = (2.0 ** (torch.rand(k, 2) * math.log2(4 * max(height, width)))).round() / 4
    return torch.cat([torch.randint(images, (k, 1)), corners, corners + sizes], dim=1).double()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 20, 16), (1, 17, 24, 9), (2, 40, 12, 33)])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_matches_the_papers(device: torch.device, shape: tuple[int, int, int, int], ratio: int, aligned: bool) -> None:
    features, rois = pyramid(*shape), random_rois(12, shape[0], *shape[2:])
    size, options = (3, 2), (ratio, 8, 1, aligned)
    expected = reference([level[:, :3] for level in features], rois, size, SCALES, *options)
    for layout in (torch.contiguous_format, torch.channels_last):
        placed = [level.to(device, memory_format=layout) for level in features]
        actual = multi_scale_roi_align(placed, rois.to(device), size, SCALES, *options).cpu()
        assert actual.shape == (12, shape[1], *size) and actual.dtype == torch.float64
        torch.testing.assert_close(actual[:, :3], expected, rtol=1e-9, atol=1e-12)
        placed = [level.float() for level in placed]
        single = multi_scale_roi_align(placed, rois.to(device).float(), size, SCALES, *options).cpu()
        torch.testing.assert_close(single, actual.float(), rtol=1e-4, atol=1e-5)


def constant_levels(device: torch.device, levels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Maps whose every value is their index plus one: what a region gives tells its map."""
    return [torch.full((1, 1, 64, 64), i + 1.0, device=device, dtype=dtype) for i in range(levels)]


def levels_of(boxes: Tensor, scales: Sequence[float], **canonical: float) -> list[int]:
    """The index of each box's map; -1 for none. All boxes begin at the image's corner."""
    features = constant_levels(boxes.device, len(scales))
    return [
        round(v) - 1 for v in multi_scale_roi_align(features, [boxes], 1, scales, 1, **canonical)[:, 0, 0, 0].tolist()
    ]


def squares(*sides: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[0.0, 0.0, side, side] for side in sides], dtype=dtype)


FPN = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def test_levels_by_hand(device: torch.device) -> None:
    sides = (0, 1, 111, 112, 223, 224, 447, 448, 449)
    assert levels_of(squares(*sides).to(device), FPN) == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    oblong = torch.tensor([[0.0, 0, 56, 224], [0, 0, 55, 224], [0, 0, 448, 112]], device=device)
    assert levels_of(oblong, FPN) == [1, 0, 2]
    canonical = {"canonical_scale": 223, "canonical_level": 3}
    assert levels_of(squares(*sides).to(device), FPN, **canonical) == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert levels_of(squares(100, 200).to(device), FPN[2:3]) == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_rounding_error_below_a_threshold_is_above_it(device: torch.device, dtype: torch.dtype) -> None:
    """1e-6 of an octave: what is nearer to the threshold than about 7e-7 of a side."""
    sides = [112.0, 112 * (1 - 5e-7), 112 * (1 - 2e-6), 224 * (1 - 5e-7), 224 * (1 - 2e-6), 448 * (1 - 5e-7)]
    expected = [1, 1, 0, 2, 1, 3]
    if dtype == torch.float16:  # neighbours of 112
        sides, expected = [112.0, 111.9375, 112.0625], [1, 0, 1]
    assert levels_of(squares(*sides, dtype=dtype).to(device), FPN) == expected


def test_levels_agree_with_torchvision_at_every_threshold(device: torch.device) -> None:
    poolers = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.poolers
    scales = [2.0**-k for k in range(2, 8)]
    for canonical_scale, canonical_level in ((224, 4), (100, 3), (33, 5), (224, 2)):
        mapper = poolers.LevelMapper(2, 7, canonical_scale, canonical_level)
        sides = [canonical_scale * 2.0**k for k in range(-6, 6)]
        boxes = squares(*(side * f for side in sides for f in (1 - 4e-6, 1, 1 + 1e-6, 1.4)), *range(1, 2000, 3))
        oblong = torch.rand(2000, 1) * torch.tensor([[0.0, 0, 900, 1100]]) + torch.tensor([[0.0, 0, 1, 1]])
        boxes = torch.cat([boxes, oblong])
        expected = mapper([boxes]).tolist()
        canonical = {"canonical_scale": canonical_scale, "canonical_level": canonical_level}
        assert levels_of(boxes.to(device), scales, **canonical) == expected
        wide = multi_scale_roi_align(constant_levels(device, 6), [boxes.to(device).double()], 1, scales, 1, **canonical)
        assert (wide[:, 0, 0, 0].cpu() - 1).tolist() == mapper([boxes.double()]).tolist()


def test_levels_that_are_not_neighbours(device: torch.device) -> None:
    """A region goes to the first map not finer than its level; torchvision drops what its index exceeds."""
    boxes = squares(100, 112, 224, 448, 1000).to(device)
    assert levels_of(boxes, (1 / 4, 1 / 16)) == [0, 1, 1, 1, 1]
    assert levels_of(boxes, (1 / 4, 1 / 16, 1 / 64)) == [0, 1, 1, 2, 2]
    poolers = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    x = OrderedDict(a=torch.full((1, 1, 64, 64), 1.0), b=torch.full((1, 1, 16, 16), 2.0))
    arguments = (x, [squares(100, 112, 224).cpu()], [(256, 256)])
    assert poolers.MultiScaleRoIAlign(["a", "b"], 1, 1)(*arguments).flatten().tolist() == [1, 2, 0]
    assert MultiScaleRoIAlign(["a", "b"], 1, 1)(*arguments).flatten().tolist() == [1, 2, 2]


def test_maps_of_one_level(device: torch.device) -> None:
    """The first takes all of their regions, as in torchvision: its MobileNetV3 detector has two maps of stride 32."""
    boxes = squares(1, 223, 224, 447, 448, 895, 896, 2000, INF).to(device)
    assert levels_of(boxes[:-1], (1 / 32, 1 / 32)) == [0] * 8
    assert levels_of(boxes[:-1], (1 / 8, 1 / 8, 1 / 16)) == [0, 0, 2, 2, 2, 2, 2, 2]
    assert levels_of(boxes[:-1], (1 / 8, 1 / 16, 1 / 16)) == [0, 0, 1, 1, 1, 1, 1, 1]
    features = [level.requires_grad_() for level in constant_levels(device, 2)]
    pooled = multi_scale_roi_align(features, [boxes], 1, (1 / 32, 1 / 32), 1)
    assert (torch.autograd.grad(pooled.sum(), features)[1] == 0).all()


def test_levels_do_not_depend_on_the_features_dtype(device: torch.device) -> None:
    """Nor on whether geometry is float64 beside them."""
    side = 112 * (1 - 7.5e-7 + 3e-8 * torch.arange(-20, 20))
    boxes = torch.cat([torch.zeros(40, 2), side[:, None].expand(40, 2)], 1).to(device)
    by_dtype = [
        multi_scale_roi_align(constant_levels(device, 4, dtype), [boxes], 1, FPN, 1).flatten().tolist()
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ]
    assert by_dtype[0] == by_dtype[1] == by_dtype[2]
    assert set(by_dtype[0]) == {1.0, 2.0}


@pytest.mark.parametrize("channels_last", [(False, False, False), (True, True, True), (True, False, True)])
@pytest.mark.parametrize("channels", [1, 24, 37])
def test_equals_roi_align_level_by_level(device: torch.device, channels: int, channels_last: tuple[bool, ...]) -> None:
    """To the bit, forward; and in the gradients' layouts. Some images and some levels have no region."""
    features = [
        level.float()
        .to(device, memory_format=torch.channels_last if last else torch.contiguous_format)
        .requires_grad_()
        for level, last in zip(pyramid(3, channels, 40, 50), channels_last, strict=True)
    ]
    rois = random_rois(30, 2, 40, 50).float().to(device)
    levels = indices(rois)
    for some in (rois, rois[levels == 0], rois[levels == 2], rois[:0]):
        expected = level_by_level(features, some)
        actual = multi_scale_roi_align(features, some, 3, SCALES, **SMALL)
        assert torch.equal(actual, expected)
        grad = torch.randn_like(expected)
        actual_grads = torch.autograd.grad(actual, features, grad)
        for a, e in zip(actual_grads, torch.autograd.grad(expected, features, grad), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)
            assert a.stride() == e.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_module_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, levels: int) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.MultiScaleRoIAlign
    sizes = [(100, 76), (50, 38), (25, 19), (13, 10)][:levels]
    wide = torch.promote_types(dtype, torch.float32)  # torchvision sums half in half
    theirs = OrderedDict((str(i), torch.randn(2, 19, *size).to(dtype).to(wide)) for i, size in enumerate(sizes))
    theirs["pool"] = torch.randn(2, 19, 5, 5).to(wide)
    ours = OrderedDict((name, level.to(device, dtype)) for name, level in theirs.items())
    names = [str(i) for i in range(levels)]
    boxes = [random_rois(n, 1, 400, 300)[:, 1:].to(wide) for n in (40, 0)]
    shapes = [(400, 300), (380, 304)]
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 4e-3}[dtype]
    for size, ratio in ((7, 2), ((3, 5), 0)):
        for level in (*theirs.values(), *ours.values()):
            level.requires_grad_()
        modules = [
            kind(names, size, ratio, canonical_scale=160, canonical_level=3) for kind in (peer, MultiScaleRoIAlign)
        ]
        expected = modules[0](theirs, boxes, shapes)
        actual = modules[1](ours, [b.to(device) for b in boxes], shapes)
        assert modules[1].scales == modules[0].scales == [0.25, 0.125, 0.0625, 0.03125][:levels]
        assert repr(modules[1]) == repr(modules[0])
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.to("cpu", wide), expected, rtol=tolerance, atol=tolerance)
        grad = torch.randn_like(expected).to(dtype)
        expected_grads = torch.autograd.grad(expected, [theirs[n] for n in names], grad.to(wide))
        actual_grads = torch.autograd.grad(actual, [ours[n] for n in names], grad.to(device))
        for a, e in zip(actual_grads, expected_grads, strict=True):
            scale = max(e.abs().max().item(), 1.0)
            torch.testing.assert_close(a.to("cpu", wide), e, rtol=tolerance, atol=tolerance * scale)


def test_module_keeps_its_scales() -> None:
    """As torchvision's: what the first images were decides."""
    module = MultiScaleRoIAlign(["b", "a"], 2, 2)  # the order is that of the maps, not of the names
    x = OrderedDict(a=torch.randn(1, 3, 32, 32), other=torch.randn(1, 7, 3, 3), b=torch.randn(1, 3, 16, 16))
    boxes = [torch.tensor([[0.0, 0, 200, 200]])]
    with pytest.raises(ValueError, match=r"^MultiScaleRoIAlign: expected image_shapes of at least one image, got none"):
        module(x, boxes, [])
    first = module(x, boxes, [(200, 100), (256, 256)])
    assert module.scales == [1 / 8, 1 / 16]
    assert torch.equal(module(x, boxes, [(64, 64)]), first)
    assert torch.equal(module(x, boxes, []), first)
    module.scales = None
    module(x, boxes, [(64, 64)])
    assert module.scales == [1 / 2, 1 / 4]
    with pytest.raises(
        RuntimeError, match=r"^MultiScaleRoIAlign: expected x with maps named \['b', 'a'\], got \['c'\]"
    ):
        module({"c": x["a"]}, boxes, [(64, 64)])


def test_module_under_autocast_and_compiled(device: torch.device) -> None:
    """Layers of different dtypes: the first one's is the result's."""
    boxes, shapes = [random_rois(9, 1, 64, 64)[:, 1:].float().to(device)], [(64, 64)]
    x = {"0": torch.randn(1, 4, 16, 16, device=device), "1": torch.randn(1, 4, 8, 8, device=device)}
    module = MultiScaleRoIAlign(["0", "1"], 3, 2, canonical_scale=32)
    expected = module(x, boxes, shapes)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_equal(module(x, boxes, shapes), expected)
    mixed = {"0": x["0"].bfloat16(), "1": x["1"]}
    exact = module({name: level.float() for name, level in mixed.items()}, boxes, shapes)
    assert_equal(module(mixed, boxes, shapes), exact.bfloat16())
    torch.compiler.reset()
    fresh = MultiScaleRoIAlign(["0", "1"], 3, 2, canonical_scale=32)
    compiled = torch.compile(fresh, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(x, boxes, shapes), expected)
    assert fresh.scales == module.scales


def pooled_of_three(a: Tensor, b: Tensor, c: Tensor, rois: Tensor, size: int, aligned: bool = False) -> Tensor:
    return multi_scale_roi_align([a, b, c], rois, size, SCALES, 2, 8, 1, aligned)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    def sample(shape: tuple[int, int, int, int], k: int, *args: object) -> Sample:
        rois = random_rois(k, shape[0], 12, 12) if k else torch.zeros(0, 5, dtype=torch.float64)
        return Sample((*pyramid(*shape), rois, 2, *args), differentiable=(0, 1, 2))

    samples = [sample((2, 2, 6, 5), 5, True), sample((1, 17, 4, 5), 3)]
    samples += [sample((2, 3, 6, 5), 0), sample((1, 0, 6, 5), 4), sample((1, 3, 0, 5), 4), sample((0, 3, 4, 4), 0)]
    check_operator(pooled_of_three, samples, device, second_derivative=True)


def test_one_level_is_empty(device: torch.device) -> None:
    """Its regions are zero; the others do not notice."""
    rois = random_rois(20, 1, 30, 30).float().to(device)
    for empty in range(3):
        features = [level.float().to(device) for level in pyramid(1, 20, 30, 30)]
        full = multi_scale_roi_align(features, rois, 3, SCALES, **SMALL)
        features[empty] = features[empty][:, :, :0]
        features = [level.requires_grad_() for level in features]
        pooled = multi_scale_roi_align(features, rois, 3, SCALES, **SMALL)
        assert torch.equal(pooled, full * (indices(rois) != empty)[:, None, None, None])
        grads = torch.autograd.grad(pooled.sum(), features)
        assert [grad.shape for grad in grads] == [level.shape for level in features]


@pytest.mark.parametrize("levels", [1, 8])
def test_as_many_levels_as_there_may_be(device: torch.device, levels: int) -> None:
    scales = [2.0**-i for i in range(levels)]
    features = [level.to(device).requires_grad_() for level in pyramid(2, 5, 130, 70, levels)]
    rois = random_rois(100, 2, 256, 256).to(device)
    assert len(indices(rois, scales, 1, 0).unique()) == levels
    expected = level_by_level(features, rois, scales, 1, 0)
    actual = multi_scale_roi_align(features, rois, 3, scales, 2, 1, 0)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(actual, features, grad), torch.autograd.grad(expected, features, grad), strict=True)
    for a, e in pairs:
        torch.testing.assert_close(a, e)


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 12), st.booleans())
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int, channels_last: bool) -> None:
    """A region depends neither on the others nor on their order."""
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = [level.float().to(memory_format=layout) for level in pyramid(2, channels, 24, 40)]
    rois = random_rois(k, 2, 24, 40).float()
    regions.check_one_by_one(lambda rois: multi_scale_roi_align(features, rois, 3, SCALES, **SMALL), rois)


@FIXED
@given(st.integers(0, 2**32), st.sampled_from([1, 16, 33]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gradient_is_the_transpose(seed: int, channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    features = [level.to(dtype).requires_grad_() for level in pyramid(2, channels, 26, 19)]
    rois = random_rois(15, 2, 26, 19).float()
    regions.check_transpose(lambda *levels: multi_scale_roi_align(levels, rois, (2, 5), SCALES, **SMALL), *features)


@pytest.mark.parametrize("value", regions.MEANINGLESS)
@pytest.mark.parametrize("ratio", [0, 2])
def test_values_without_meaning(device: torch.device, value: float, ratio: int) -> None:
    """Nor is anything read elsewhere."""
    features = [level.float().to(device).requires_grad_() for level in pyramid(1, 20, 24, 24)]
    pooled, *_ = regions.check_meaningless(
        lambda *of: multi_scale_roi_align(of[:-1], of[-1], 4, SCALES, ratio, **SMALL), value, *features
    )
    assert (pooled[-2] == 0).all()


def test_negative_area(device: torch.device) -> None:
    """Reversed along one axis, a region has no level, as in torchvision; along both, that of its size."""
    features = [level.to(device).requires_grad_() for level in pyramid(1, 5, 40, 40)]
    box = [[0.0, 9, 20, 2, 30], [0, 9, 20, 12, 2], [0, 30, 31, 4, 5], [0, 5, 5, 5, 9], [0, 5, 5, 5, -9]]
    rois = torch.tensor(box, device=device)
    pooled = multi_scale_roi_align(features, rois, 3, SCALES, **SMALL, aligned=True)
    assert (pooled[:2] == 0).all()
    assert torch.equal(pooled[2:3], roi_align(features[2], rois[2:3], 3, SCALES[2], 2, True))
    assert torch.equal(pooled[3:], roi_align(features[0], rois[3:], 3, SCALES[0], 2, True))  # of no area: the finest
    kept = torch.autograd.grad(pooled.sum(), features)
    expected = multi_scale_roi_align(features, rois[2:], 3, SCALES, **SMALL, aligned=True)
    for a, e in zip(kept, torch.autograd.grad(expected.sum(), features), strict=True):
        assert torch.equal(a, e)
    alone = multi_scale_roi_align(features[:1], rois, 3, SCALES[:1])
    assert torch.equal(alone, roi_align(features[0], rois, 3, 1.0, 2))
    assert (alone[0] != 0).any()


@pytest.mark.parametrize("shape", [(1, 64, 100, 120), (3, 5, 80, 140), (1, 2, 300, 400)])
@pytest.mark.threads
def test_threads(shape: tuple[int, int, int, int]) -> None:
    features = [level.float().requires_grad_() for level in pyramid(*shape)]
    rois = random_rois(2000, shape[0], *shape[2:]).float()
    regions.check_threads(lambda *levels: multi_scale_roi_align(levels, rois, 7, SCALES, **SMALL), *features)


def test_layouts_lists_and_mixed_dtypes(device: torch.device) -> None:
    features, (boxes, rois) = [level.float().to(device) for level in pyramid(3, 24, 20, 24)], boxes_by_image(device)
    expected = multi_scale_roi_align(features, rois, (2, 3), SCALES, **SMALL)
    assert torch.equal(multi_scale_roi_align(features, boxes, (2, 3), SCALES, **SMALL), expected)
    last = [level.to(memory_format=torch.channels_last) for level in features]
    assert multi_scale_roi_align(last, rois, 3, SCALES).is_contiguous(memory_format=torch.channels_last)
    assert multi_scale_roi_align([features[0], *last[1:]], rois, 3, SCALES).is_contiguous()
    windows = [torch.nn.functional.pad(level, (2, 3, 4, 5, 6, 7))[:, 6:-7, 4:-5, 2:-3] for level in features]
    assert torch.equal(multi_scale_roi_align(windows, rois, (2, 3), SCALES, **SMALL), expected)
    regions.check_mixed_dtypes(lambda *of: multi_scale_roi_align(*of, (2, 3), SCALES, **SMALL), features, rois)


def of(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.ones(shape) for shape in shapes]


LEVELS = of((1, 3, 8, 8), (1, 3, 4, 4))
SHAPE = r"expected features\[1\] of shape \(1, 3, \*, \*\), got "
BAD = [
    ({"features": of((3, 8, 8), (3, 4, 4))}, r"expected features\[0\] of shape \(\*, \*, \*, \*\), got \(3, 8, 8\)"),
    ({"features": of((1, 3, 8, 8), (1, 4, 4, 4))}, SHAPE + r"\(1, 4, 4, 4\)"),
    ({"features": of((1, 3, 8, 8), (2, 3, 4, 4))}, SHAPE + r"\(2, 3, 4, 4\)"),
    (
        {"features": [LEVELS[0], LEVELS[1].double()]},
        r"expected features\[1\] of the dtype of features\[0\], float32, got",
    ),
    ({"features": [level.long() for level in LEVELS]}, r"expected features\[0\] of dtype float32, .*, got int64"),
    ({"features": LEVELS[:1]}, "expected scales of 1 levels, got 2"),
    ({"features": LEVELS[:1] * 9, "scales": [1.0] * 9}, "expected features of at most 8 levels, got 9"),
    ({"scales": (0.5, 1.0)}, "expected scales from the finest level to the coarsest, got 1 after 0.5"),
    ({"scales": (0.5, 0.0)}, r"expected scales\[1\] above 0 and finite, got 0"),
    ({"scales": (INF, 0.5)}, r"expected scales\[0\] above 0 and finite, got inf"),
    ({"scales": (NAN, 0.5)}, r"expected scales\[0\] above 0 and finite, got nan"),
    ({"canonical_scale": -1.5}, "expected canonical_scale above 0 and finite, got -1.5"),
    ({"rois": torch.ones(2, 4)}, r"expected rois of shape \(\*, 5\), got \(2, 4\)"),
    ({"rois": torch.ones(2, 5).long()}, "expected rois of dtype float32, .*, got int64"),
    ({"output_size": 0}, "expected pooled_height of at least 1, got 0"),
    ({"output_size": (2, -1)}, "expected pooled_width of at least 1, got -1"),
    ({"features": []}, "expected features of at least one level, got none"),
    (
        {"features": [LEVELS[0], LEVELS[1].to("meta")]},
        r"expected features\[1\] on the device of features\[0\], c.*, got",
    ),
    ({"rois": torch.ones(2, 5, device="meta")}, r"expected rois on the device of features\[0\], .*, got"),
    ({"rois": [torch.ones(2, 5)]}, r"expected rois\[0\] of shape \(\*, 4\), got \(2, 5\)"),
    ({"rois": []}, "expected rois of at least one image, got an empty list"),
    ({"output_size": (2, 2, 2)}, "expected output_size of one or two numbers, got"),
]
GOOD = {
    "features": LEVELS,
    "rois": torch.zeros(2, 5),
    "output_size": 2,
    "scales": (0.5, 0.25),
    "sampling_ratio": 2,
    "canonical_scale": 224,
}


@pytest.mark.parametrize(("change", "message"), BAD)
def test_says_what_is_wrong(device: torch.device, change: dict[str, object], message: str) -> None:
    regions.check_mistake(multi_scale_roi_align, tuple({**GOOD, **change}.values()), message, device)


BACKWARD = (
    torch.ones(2, 3, 2, 2),
    torch.zeros(2, 5),
    [0.5, 0.25],
    2,
    2,
    1,
    3,
    [8, 8, 4, 4],
    2,
    224.0,
    4,
    False,
    [False] * 2,
)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (7, [8, 8], "expected scales of 1 levels, got 2"),
        (7, [], "expected sizes of at least one level, got none"),
        (12, [True], "expected channels_last of 2 levels, got 1"),
        (0, torch.ones(2, 4, 2, 2), r"expected grad of shape \(2, 3, 2, 2\), got \(2, 4, 2, 2\)"),
        (1, torch.zeros(2, 4), r"expected rois of shape \(\*, 5\), got \(2, 4\)"),
        (3, 0, "expected pooled_height of at least 1, got 0"),
    ],
)
def test_backward_says_what_is_wrong(position: int, value: object, message: str) -> None:
    arguments = list(BACKWARD)
    assert [g.shape for g in torch.ops.detops.multi_scale_roi_align_backward(*arguments)] == [
        (1, 3, 8, 8),
        (1, 3, 4, 4),
    ]
    arguments[position] = value
    for place in ("cpu", "meta"):
        placed = [a.to(place) if isinstance(a, Tensor) else a for a in arguments]
        with pytest.raises(RuntimeError, match=f"^multi_scale_roi_align_backward: {message}"):
            torch.ops.detops.multi_scale_roi_align_backward(*placed)


@pytest.mark.parametrize("index", regions.NO_IMAGE)
def test_image_index_out_of_range(index: float) -> None:
    features, arguments = of((2, 3, 8, 8), (2, 3, 4, 4)), list(BACKWARD)
    arguments[5] = 2  # images

    def backward(rois: Tensor) -> list[Tensor]:
        return torch.ops.detops.multi_scale_roi_align_backward(arguments[0], rois, *arguments[2:])

    name = "multi_scale_roi_align"
    regions.check_image_is_refused(name, lambda rois: multi_scale_roi_align(features, rois, 2, (0.5, 0.25)), index)
    regions.check_image_is_refused(f"{name}_backward", backward, index)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, layout: torch.memory_format) -> None:
    """Not even another level's image is read."""
    shapes = (2, 4, 16, 16), (2, 4, 8, 8), (2, 4, 4, 4)
    features = [level.to(gpu, memory_format=layout).requires_grad_() for level in of(*shapes)]
    for side in (2.0, 8.0, 16.0):
        pooled = regions.check_images_are_zero(lambda *of: pooled_of_three(*of, 2), [0, 0, side, side], *features)
        assert (pooled == 1).all()


def test_number_of_regions_known_only_at_run_time() -> None:
    features = [level.requires_grad_() for level in pyramid(2, 3, 16, 16, 2)]
    regions.check_regions_chosen_at_run_time(
        lambda *of: multi_scale_roi_align(of[:-1], of[-1], 2, SCALES[:2], 2, 8, 1), *features, random_rois(6, 2, 16, 16)
    )
