import math
from types import ModuleType

import pytest
import torch
from checks import Sample, check_operator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rotated import exact_overlap, exact_pairs, hard_pairs, next_to, random_rotated
from torch import Tensor

from detops.ops import box_iou, box_iou_rotated

HARD = sorted(hard_pairs())
INF, NAN = math.inf, math.nan


def degrees(boxes: Tensor) -> Tensor:
    """As torchvision has them."""
    return torch.cat([boxes[:, :4], boxes[:, 4:].rad2deg()], dim=1)


def radians(boxes: Tensor) -> Tensor:
    """The other way, in float64."""
    return torch.cat([boxes[:, :4].double(), boxes[:, 4:].double().deg2rad()], dim=1)


@pytest.mark.parametrize("kind", HARD)
def test_exact(device: torch.device, kind: str) -> None:
    """Against rational arithmetic: nothing is lost but the rounding of the result."""
    a, b = hard_pairs()[kind]
    for mode in ("iou", "iof"):
        for clockwise in (True, False):
            expected = exact_pairs(a, b, mode, clockwise)
            actual = box_iou_rotated(a.to(device), b.to(device), mode, aligned=True, clockwise=clockwise)
            assert actual.dtype == torch.float32
            assert (actual.cpu() - expected).abs().max() < 1e-7
            assert ((actual >= 0) & (actual <= 1)).all()
    wide = box_iou_rotated(a.double().to(device), b.double().to(device), aligned=True).cpu()
    assert (wide - exact_pairs(a, b)).abs().max() < 1e-9


@pytest.mark.parametrize("kind", HARD)
def test_pairs_are_a_diagonal_and_order_does_not_matter(device: torch.device, kind: str) -> None:
    a, b = (boxes.to(device) for boxes in hard_pairs()[kind])
    iou = box_iou_rotated(a, b)
    assert torch.equal(iou.diagonal(), box_iou_rotated(a, b, aligned=True))
    assert torch.equal(iou.T, box_iou_rotated(b, a))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (33, 130), (5, 700), (70, 65)])
def test_every_pair(device: torch.device, sizes: tuple[int, int]) -> None:
    a, b = random_rotated(sizes[0], extent=200), random_rotated(sizes[1], extent=200)
    actual = box_iou_rotated(a.to(device), b.to(device)).cpu()
    assert actual.shape == sizes
    for _ in range(60):
        i, j = int(torch.randint(sizes[0], ())), int(torch.randint(sizes[1], ()))
        assert abs(actual[i, j].item() - exact_overlap(a[i], b[j])) < 1e-7


def test_by_hand(device: torch.device) -> None:
    square = torch.tensor([[0.0, 0, 2, 2, 0]], device=device)
    others = torch.tensor(
        [
            [0.0, 0, 2, 2, math.pi / 4],  # a regular octagon of both
            [1, 0, 2, 2, math.pi / 2],
            [0, 0, 1, 1, 0],
            [5, 0, 2, 2, 1],
            [0, 0, 4, 1, math.pi],
        ],
        device=device,
    )
    octagon = 8 * (math.sqrt(2) - 1)
    expected = [octagon / (8 - octagon), 1 / 3, 1 / 4, 0, 2 / 6]
    torch.testing.assert_close(box_iou_rotated(square, others)[0].cpu(), torch.tensor(expected))
    expected = [octagon / 4, 1 / 2, 1 / 4, 0, 1 / 2]
    torch.testing.assert_close(box_iou_rotated(square, others, "iof")[0].cpu(), torch.tensor(expected))


NEAR = [296.6620178222656, 458.73883056640625, 23.515729904174805, 47.677001953125, 0.08795166015625]
LONG = [2563.744628906250, 1436.790161132812, 2174.703369140625, 214.095001220703, 115.118347167969]
IDENTICAL = [0.0, 0.0, 180.6422271729, 136.3633728027, 0.9559648633]


@pytest.mark.parametrize(
    ("a", "b", "in_degrees"),
    [
        ([160, 153, 230, 23, -37], [190, 127, 80, 21, -46], True),  # detectron2 1207: 0.266
        (NEAR, [296.66201, 458.73882, 23.51573, 47.67702, 0.087951], True),  # detectron2 2154: 0.600
        (LONG, [2563.744628906250, 1436.790283203125, 2174.702880859375, 214.094955444336, 115.118354797363], True),
        ([1010.5, 860.00012207, 12.20655537, 48.82622528, 55.00798035], [1022, 870.49993896, 10.8, 43.2, 56.3], True),
        (IDENTICAL, IDENTICAL, False),  # mmcv 2621: 0.333
        ([135.07, 406.72, 7.9445e-7, 1971.1, 1.7708], [151.0080, 436.2173, 302.0159, 313.7347, 3.1184], False),
        ([135.07, 406.72, 7.9445e-7, 1.9711e10, 1.7708], [151.0080, 436.2173, 302.0159, 313.7347, 3.1184], False),
        ([46.83, 44.03, 3.9, 1.63, 0], [46.83, 44.03, 1.63, 3.9, 1.45], False),
    ],
)
def test_reported_of_others(device: torch.device, a: list[float], b: list[float], in_degrees: bool) -> None:
    """Boxes that detectron2, mmcv and their like were reported to be wrong about, up to -12128368 (mmcv 2952)."""
    p, q = torch.tensor([a]), torch.tensor([b])
    if in_degrees:
        expected = exact_pairs(radians(p), radians(q), clockwise=False).item()
        actual = box_iou(p.to(device), q.to(device), fmt="cxcywhr").item()
    else:
        expected = exact_pairs(p, q).item()
        actual = box_iou_rotated(p.to(device), q.to(device)).item()
    assert actual == pytest.approx(expected, abs=1e-7)


def test_sense_of_the_angle(device: torch.device) -> None:
    """An eighth of a turn from the x axis towards the y axis lies along the diagonal down an image."""
    long = torch.tensor([[0.0, 0, 20, 1, math.pi / 4]], device=device)
    down, up = (torch.tensor([[5.0, y, 1, 1, 0]], device=device) for y in (5.0, -5.0))
    assert box_iou_rotated(down, long, "iof") > 0.7 and box_iou_rotated(up, long, "iof") == 0
    assert box_iou_rotated(down, long, "iof", clockwise=False) == 0
    assert box_iou_rotated(up, long, "iof", clockwise=False) > 0.7


def test_large_angles(device: torch.device) -> None:
    a, b = random_rotated(50), random_rotated(50)
    a[:, 4] = (torch.rand(50) * 2 - 1) * 10 ** (torch.rand(50) * 8.7)
    b[:, :2] = a[:, :2]
    actual = box_iou_rotated(a.to(device), b.to(device), aligned=True).cpu()
    assert (actual - exact_pairs(a, b)).abs().max() < 1e-7


def test_values_without_meaning(device: torch.device) -> None:
    good = [1.0, 2, 3, 4, 0.5]
    odd = [[*good[:i], value, *good[i + 1 :]] for i in range(5) for value in (NAN, INF, -INF)]
    odd += [[1, 2, 0, 4, 0], [1, 2, 3, -4, 0], [1, 2, 0, 0, 0], [1, 2, 3, 4, 1e30]]
    boxes = torch.tensor([*odd, good, [1e30, 1e30, 1e30, 1e30, 0], [1, 2, 1e-30, 1e-30, 0]], device=device)
    for mode in ("iou", "iof"):
        overlap = box_iou_rotated(boxes, boxes, mode).cpu()
        assert (overlap[: len(odd)] == 0).all() and (overlap[:, : len(odd)] == 0).all()
        assert torch.equal(overlap[len(odd) :, len(odd) :].diagonal(), torch.ones(3))
        assert ((overlap >= 0) & (overlap <= 1)).all()
        assert torch.equal(box_iou_rotated(boxes, boxes, mode, aligned=True).cpu(), overlap.diagonal())


@pytest.mark.parametrize("angle", [0.0, 90.0, -180.0, 1e6 * 90])
def test_upright_boxes(device: torch.device, angle: float) -> None:
    """At right angles, in degrees, exactly what upright boxes give."""
    corner = torch.randint(0, 60, (40, 2)) / 4
    size = torch.randint(1, 60, (40, 2)) / 4
    upright = torch.cat([corner, corner + size], dim=1).to(device)
    turned = size.flip(1) if angle / 90 % 2 else size
    rotated = torch.cat([corner + size / 2, turned, torch.full((40, 1), angle)], dim=1).to(device)
    torch.testing.assert_close(box_iou(rotated, rotated, fmt="cxcywhr"), box_iou(upright, upright), rtol=0, atol=6e-8)


def torchvision_with_rotated_boxes() -> ModuleType:
    ops = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    try:
        ops.box_iou(torch.ones(1, 5), torch.ones(1, 5), fmt="cxcywhr")
    except ValueError:
        pytest.skip("this version of torchvision has no overlaps of rotated boxes")
    return ops


def test_formats_of_box_iou(device: torch.device) -> None:
    ops = torchvision_with_rotated_boxes()
    a, b = degrees(random_rotated(30)), degrees(random_rotated(20))
    expected = ops.box_iou(a, b, fmt="cxcywhr")
    torch.testing.assert_close(box_iou(a.to(device), b.to(device), fmt="cxcywhr").cpu(), expected, rtol=0, atol=2e-5)
    for fmt in ("xywhr", "xyxyxyxy"):
        p, q = (ops.box_convert(boxes, "cxcywhr", fmt) for boxes in (a, b))
        torch.testing.assert_close(box_iou(p.to(device), q.to(device), fmt=fmt).cpu(), expected, rtol=0, atol=2e-5)
        batch = box_iou(p.view(2, 15, -1).to(device), q.to(device), fmt=fmt)
        torch.testing.assert_close(batch.cpu(), expected.view(2, 15, 20), rtol=0, atol=2e-5)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    boxes = (random_rotated(12) * 8).round().double() / 8
    boxes[:, 2:4] += 1
    empty = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((boxes[:7], boxes[7:])),
        Sample((boxes.view(2, 6, 5)[:, :2], boxes.view(2, 6, 5)[:, 2:]), {"mode": "iof", "clockwise": False}),
        Sample((boxes[:6], boxes[6:]), {"aligned": True}),
        Sample((empty, boxes)),
        Sample((boxes, empty)),
        Sample((empty, empty), {"aligned": True}),
    ]
    check_operator(box_iou_rotated, samples, device)


def test_mixed_dtypes(device: torch.device) -> None:
    half, single = random_rotated(4).half().to(device), random_rotated(5).to(device)
    assert torch.equal(box_iou_rotated(half, single), box_iou_rotated(half.float(), single))
    whole = torch.tensor([[2**26 + 1, 0, 2, 2, 0], [2**26 + 2, 0, 2, 2, 0]], dtype=torch.int32, device=device)
    torch.testing.assert_close(box_iou_rotated(whole[:1], whole[1:]).cpu(), torch.tensor([[1 / 3]]))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert box_iou_rotated(single, single).dtype == torch.float32


def test_has_no_gradient(device: torch.device) -> None:
    boxes = random_rotated(3).to(device).requires_grad_()
    assert not box_iou_rotated(boxes, boxes).requires_grad
    assert not box_iou(boxes, boxes, fmt="cxcywhr").requires_grad


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (lambda a: (a[:, :4], a), {}, r"expected boxes1 of shape \(\*, 5\), got \(5, 4\)"),
        (lambda a: (a, a[0]), {}, r"expected boxes2 of shape \(\*, 5\), got \(5\)"),
        (lambda a: (a, a[:3]), {"aligned": True}, r"expected boxes2 of shape \(5, 5\), got \(3, 5\)"),
        (lambda a: (a[None], a), {}, r"expected boxes2 of shape \(1, \*, 5\), got \(5, 5\)"),
        (lambda a: (a.bool(), a), {}, r"expected boxes1 of a floating or integer dtype, got bool"),
        (lambda a: (a, a.to("meta")), {}, r"expected boxes2 on the device of boxes1, .*, got"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, kwargs: dict[str, bool], message: str) -> None:
    boxes = random_rotated(5).to(device)
    with pytest.raises(RuntimeError, match=f"^box_iou_rotated: {message}"):
        box_iou_rotated(*make(boxes), **kwargs)
    if "device" not in message:
        with pytest.raises(RuntimeError, match=f"^box_iou_rotated: {message}"):
            box_iou_rotated(*(t.to("meta") for t in make(boxes)), **kwargs)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="box_iou_rotated: expected mode 'iou' or 'iof', got 'giou'"):
        box_iou_rotated(torch.ones(1, 5), torch.ones(1, 5), mode="giou")


place = st.integers(-4000, 4000).map(lambda q: q / 16)
side = st.floats(2.0**-10, 2.0**10, width=32)
box = st.tuples(place, place, side, side, st.floats(-7, 7, width=32)).map(list)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(box, min_size=1, max_size=20), st.integers(-3, 3), st.integers(-(2**12), 2**12))
def test_invariants(device: torch.device, boxes: list[list[float]], exponent: int, shift: int) -> None:
    """In [0, 1], 1 on itself, and the same after a shift, a scaling or a turn of the sides that rounds nothing."""
    a = torch.tensor(boxes, device=device)
    iou = box_iou_rotated(a, a)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert (iou.diagonal() == 1).all()
    scaled, shifted, swapped = a.clone(), a.clone(), a.double()
    scaled[:, :4] *= 2.0**exponent
    shifted[:, :2] += shift
    swapped[:, 2:4] = swapped[:, 2:4].flip(1)
    swapped[:, 4] += math.pi / 2
    assert torch.equal(box_iou_rotated(scaled, scaled), iou)
    assert torch.equal(box_iou_rotated(shifted, shifted), iou)
    torch.testing.assert_close(box_iou_rotated(a.double(), swapped).float(), iou, rtol=0, atol=1e-6)


@pytest.mark.threads
def test_threads(device: torch.device) -> None:
    a, b = random_rotated(1500, extent=600).to(device), random_rotated(400, extent=600).to(device)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(box_iou_rotated(a, b))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(before)


def test_torchvision_is_wrong() -> None:
    """On boxes one rounding error apart, thick or thin, and on tiny ones; all in degrees."""
    ops = torchvision_with_rotated_boxes()
    boxes, (slivers, _) = degrees(random_rotated(150)), hard_pairs()["slivers in line"]
    tiny, other_tiny = (degrees(of) for of in hard_pairs()["tiny"])
    slivers = degrees(slivers)
    for a, b in ((boxes, next_to(boxes)), (slivers, next_to(slivers)), (tiny, other_tiny)):
        exact = exact_pairs(radians(a), radians(b), clockwise=False)
        assert (ops.box_iou(a, b, fmt="cxcywhr").diagonal() - exact).abs().max() > 0.1
        assert (box_iou(a, b, fmt="cxcywhr").diagonal() - exact).abs().max() < 1e-7
