import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import detops
from detops.ops import batched_nms, box_iou, nms, nms_padded

INSTRUCTION_SETS = detops._C.instruction_sets()
PROPERTY = settings(deadline=None, max_examples=40)
LIST = 1440  # more boxes kept than this, at low thresholds 3200, and the grid takes over if twice as many are left
INF, NAN = math.inf, math.nan


@pytest.fixture
def fewer(request: pytest.FixtureRequest) -> int:
    """By what to divide numbers of boxes that are to be more than a list on the CPU takes."""
    return 8 if request.node.callspec.params["device"] == "emulated" else 1


def reference(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Greedy suppression in plain Python: the quotient rounded to the boxes' precision, compared in float64."""
    precision = torch.float64 if boxes.dtype == torch.float64 or not boxes.is_floating_point() else torch.float32
    b = boxes.to(precision)
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    keep: list[int] = []
    for i in torch.sort(scores, stable=True, descending=True).indices.tolist():
        if keep:
            side = torch.minimum(b[i, 2:], b[keep, 2:]) - torch.maximum(b[i, :2], b[keep, :2])
            shared = side.clamp(min=0).prod(dim=1)
            if ((shared / (area[i] + area[keep] - shared)).double() > threshold).any():
                continue
        keep.append(i)
    return keep


def by_every_pair(boxes: Tensor, threshold: float) -> Tensor:
    """The same for boxes in order of score, from the whole matrix of overlaps: quicker for many boxes."""
    above = box_iou(boxes, boxes).double() > threshold
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~above[i, i + 1 :]
    return torch.where(alive)[0]


def random_boxes(n: int, extent: float = 100, largest: float = 40) -> Tensor:
    corner = torch.rand(n, 2) * extent
    return torch.cat([corner, corner + torch.rand(n, 2) * largest + 0.5], dim=1)


def clusters(n: int, objects: int = 20, spread: float = 6) -> Tensor:
    """Boxes jittered round objects of many sizes."""
    centre, size = torch.rand(objects, 2) * 800, 8 * 2 ** (6 * torch.rand(objects, 2))
    chosen = torch.randint(objects, (n,))
    middle = centre[chosen] + torch.randn(n, 2) * spread
    half = size[chosen] * torch.exp(0.3 * torch.randn(n, 2)) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def lattice(columns: int, rows: int, pitch: float = 8, side: float = 7) -> Tensor:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * pitch
    return torch.cat([corner, corner + side], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 17, 49, 64, 129, 500])
def test_matches_the_definition(device: torch.device, dtype: torch.dtype, n: int) -> None:
    boxes, scores = random_boxes(n).to(dtype), torch.rand(n).round(decimals=2)
    for threshold in (0.0, 0.3, 0.5, 0.7, 0.95):
        actual = nms(boxes.to(device), scores.to(device), threshold)
        assert actual.dtype == torch.int64 and actual.device.type == device.type
        assert actual.tolist() == reference(boxes, scores, threshold)


def test_by_hand(device: torch.device) -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 5], [20, 0, 30, 10], [0, 0, 10, 10]], device=device
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95, 0.9], device=device)
    assert nms(boxes, scores, 0.5).tolist() == [3, 0, 2]  # IoU 0.6 is above 0.5, IoU 0.5 is not
    assert nms(boxes, scores, 0.49).tolist() == [3, 0]
    assert nms(boxes, scores, 1.0).tolist() == [3, 0, 4, 1, 2]


def test_ties_are_decided_as_by_torchvision() -> None:
    """The float32 quotient 0.6 is, as a double, above 0.6; multiplying instead of dividing would not find it so."""
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]]), torch.tensor([1.0, 0.5])
    assert nms(boxes, scores, 0.6).tolist() == [0]
    assert nms(boxes.double(), scores, 0.6).tolist() == [0, 1]
    assert nms(boxes.double(), scores, math.nextafter(0.6, 0)).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.2, 0.75])
def test_near_ties_agree_with_torchvision(device: torch.device, threshold: float, fewer: int) -> None:
    """Boxes on a small grid: quotients of small integers, many of them the threshold exactly."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.nms
    for dtype, n in ((torch.float32, 800), (torch.float64, 800), (torch.float32, 6000 // fewer)):
        corner = torch.randint(0, 12 if n <= 800 else 150, (n, 2))
        boxes = torch.cat([corner, corner + torch.randint(1, 11, (n, 2))], dim=1).to(dtype)
        scores = torch.rand(n).to(dtype)
        assert torch.equal(nms(boxes.to(device), scores.to(device), threshold).cpu(), peer(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.05, 0.15, 0.3, 0.5, 0.7, 0.9])
def test_many_boxes_agree_with_torchvision(device: torch.device, threshold: float, fewer: int) -> None:
    """Clustered boxes and a lattice, more than a list takes."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.nms
    rows = (40 if threshold > 0.4 else 100) // fewer
    boxes = torch.cat([clusters(3000 // fewer, objects=300), lattice(100, rows)])
    scores = torch.rand(len(boxes))
    actual = nms(boxes.to(device), scores.to(device), threshold).cpu()
    assert torch.equal(actual, peer(boxes, scores, threshold))
    assert len(actual) > (2 * LIST if threshold > 0.4 else 3200) // fewer


def adversarial(kind: str, n: int) -> Tensor:
    boxes = {
        "identical": lambda: torch.tensor([[3.0, 4, 9, 8]]).repeat(n, 1),
        "nested": lambda: torch.stack([torch.arange(n), torch.arange(n), 3 * n - torch.arange(n)] * 2).T[
            :, [0, 1, 2, 5]
        ],
        "far away": lambda: random_boxes(n) + 1e6,
        "tiny": lambda: random_boxes(n, extent=3000) * 1e-20,
        "subnormal": lambda: random_boxes(n, extent=3000) * 1e-22,
        "tiny and huge": lambda: random_boxes(n, extent=3000) * 10.0 ** torch.randint(-20, 17, (n, 1)),
        "enormous": lambda: random_boxes(n, extent=3000) * 1e30,
        "ulps": lambda: lattice(80, n // 80 + 1, pitch=1, side=1)[:n] + 2.0**23,
        "slivers": lambda: random_boxes(n, extent=1000) * torch.tensor([1000.0, 1e-3, 1000.0, 1e-3]),
        "crossed slivers": lambda: torch.stack(
            [torch.tensor([i, 0, i + 0.5, 1e4]) if i % 2 else torch.tensor([0, i, 1e4, i + 0.5]) for i in range(n)]
        ),
        "powers of two": lambda: (
            torch.cat([lattice(n // 8, 8)[:n, :2]] * 2, dim=1)
            + torch.cat([torch.zeros(n // 8 * 8, 2), 2.0 ** torch.randint(-2, 5, (n // 8 * 8, 2))], dim=1)
        ),
        "without meaning": lambda: torch.where(
            torch.rand(n, 4) < 0.1,
            torch.tensor([NAN, INF, -INF, 1e30])[torch.randint(4, (n, 4))],
            random_boxes(n, 2000),
        ),
        "reversed": lambda: torch.where(
            torch.rand(n, 1) < 0.5, random_boxes(n, 2000)[:, [2, 1, 0, 3]], random_boxes(n)
        ),
    }
    return boxes[kind]().float()


ADVERSARIAL = (
    "identical",
    "nested",
    "far away",
    "tiny",
    "subnormal",
    "tiny and huge",
    "enormous",
    "ulps",
    "slivers",
    "crossed slivers",
    "powers of two",
    "without meaning",
    "reversed",
)


@pytest.mark.parametrize("kind", ADVERSARIAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strange_boxes_agree_with_torchvision(device: torch.device, kind: str, dtype: torch.dtype, fewer: int) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.nms
    boxes = adversarial(kind, 4800 // fewer).to(dtype)
    scores = torch.rand(len(boxes))
    for threshold in (0.0, 0.3, 0.7):
        actual = nms(boxes.to(device), scores.to(device), threshold).cpu()
        assert torch.equal(actual, peer(boxes, scores.to(dtype), threshold))


@pytest.mark.parametrize("scale", [1e-160, 1e-140, 1e140])
def test_double_extremes(device: torch.device, scale: float, fewer: int) -> None:
    n = 2500 // fewer
    boxes, scores = random_boxes(n, extent=3000).double() * scale, torch.linspace(1, 0, n)
    assert torch.equal(nms(boxes.to(device), scores.to(device), 0.5).cpu(), by_every_pair(boxes, 0.5))


def test_boxes_without_area_stay(device: torch.device) -> None:
    proper = [0.0, 0, 4, 4]
    strange = [
        [1.0, 1, 1, 1],
        [0, 0, 4, 0],
        [4, 4, 0, 0],
        [4, 0, 0, 4],
        [NAN, 0, 4, 4],
        [0, 0, INF, 4],
        [-INF, 0, INF, 9],
    ]
    boxes = torch.tensor([proper, *strange, *strange, proper], device=device)
    scores = torch.linspace(1, 0, len(boxes), device=device)
    for threshold in (0.0, 0.5):
        assert nms(boxes, scores, threshold).tolist() == list(range(len(boxes) - 1))


def test_thresholds_outside_their_range(device: torch.device) -> None:
    boxes, scores = random_boxes(40).to(device), torch.rand(40, device=device)
    order = scores.sort(descending=True).indices
    for threshold in (1.0, 1.5, INF):
        assert torch.equal(nms(boxes, scores, threshold), order)
    for threshold in (-0.1, -INF):
        assert torch.equal(nms(boxes, scores, threshold), order[:1])
    boxes[:20] = NAN
    assert nms(boxes, scores, -1.0).tolist() == reference(boxes.cpu(), scores.cpu(), -1.0)
    assert torch.equal(nms(boxes, scores, -0.0), nms(boxes, scores, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [40, 200, 5000])
def test_order_of_scores_is_torch_sort(device: torch.device, dtype: torch.dtype, n: int, fewer: int) -> None:
    n = n if n < 1000 else n // fewer
    scores = torch.randn(n).round(decimals=1).to(dtype)
    scores[torch.randperm(n)[: n // 25 * 5]] = torch.tensor([NAN, INF, -INF, 0.0, -0.0], dtype=dtype).repeat(n // 25)
    boxes = lattice(n, 1)
    assert torch.equal(
        nms(boxes.to(device), scores.to(device), 0.5).cpu(), scores.sort(stable=True, descending=True)[1]
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integer_scores(device: torch.device, dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    scores = torch.tensor([info.min, info.max, 0, info.max - 1, 1, info.max], dtype=dtype, device=device)
    order = scores.cpu().sort(stable=True, descending=True).indices
    assert torch.equal(nms(lattice(6, 1).to(device), scores, 0.5).cpu(), order)


def test_large_integer_boxes_are_exact(device: torch.device) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 5]]) + 2**40
    for dtype in (torch.int64, torch.float64):
        assert nms(boxes.to(device, dtype), torch.arange(3.0, 0, -1, device=device), 0.55).tolist() == [0, 2]


def by_class(boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> list[int]:
    """The union of each class's suppression, by score and index."""
    kept = []
    for label in idxs.unique():
        members = torch.where(idxs == label)[0]
        kept += members[reference(boxes[members], scores[members], threshold)].tolist()
    return sorted(kept, key=lambda i: (-scores[i].item(), i))


CLASSES: dict[str, Callable[[int], Tensor]] = {
    "few": lambda n: torch.randint(0, 5, (n,)),
    "one": lambda n: torch.full((n,), 7),
    "all different": lambda n: torch.randperm(n),
    "negative": lambda n: torch.randint(-3, 3, (n,)),
    "huge": lambda n: torch.tensor([-(2**63), 2**63 - 1, 2**62, 0, -1])[torch.randint(0, 5, (n,))],
    "int32": lambda n: torch.tensor([-(2**31), 2**31 - 1, 0], dtype=torch.int32)[torch.randint(0, 3, (n,))],
    "int8": lambda n: torch.randint(-128, 128, (n,)).to(torch.int8),
    "uint8": lambda n: torch.randint(0, 256, (n,)).to(torch.uint8),
    "floating": lambda n: torch.randint(0, 4, (n,)).float(),
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("n", [1, 30, 400])
def test_classes_do_not_interact(device: torch.device, kind: str, n: int) -> None:
    boxes, scores, idxs = random_boxes(n), torch.rand(n).round(decimals=2), CLASSES[kind](n)
    actual = batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.4)
    assert actual.tolist() == by_class(boxes, scores, idxs, 0.4)


def test_batched_agrees_with_torchvision(device: torch.device) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.batched_nms
    boxes, idxs = clusters(6000), torch.randint(0, 8, (6000,))
    scores = torch.randperm(6000) / 6000
    boxes = boxes.round()  # so that torchvision's offsets lose nothing
    actual = batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.5)
    assert torch.equal(actual.cpu(), peer(boxes, scores, idxs, 0.5))


def test_half_precision_classes_are_not_moved(device: torch.device) -> None:
    """Class 79 of a 1,334 pixel image: an offset of 105,386 is infinite in float16."""
    boxes = torch.tensor([[1300.0, 700, 1334, 800], [1300, 700, 1334, 800], [0, 0, 30, 40]]).repeat(80, 1)
    idxs = torch.arange(80).repeat_interleave(3)
    scores = torch.linspace(1, 0, len(boxes))
    for dtype in (torch.float16, torch.bfloat16):
        actual = batched_nms(boxes.to(device, dtype), scores.to(device), idxs.to(device), 0.5)
        assert actual.tolist() == [i for i in range(len(boxes)) if i % 3 != 1]


def test_large_and_small_classes_together(device: torch.device, fewer: int) -> None:
    parts = lattice(100, 50 // fewer), random_boxes(100), clusters(3000 // fewer)
    boxes = torch.cat(parts)
    idxs = torch.cat([torch.zeros(len(parts[0])), torch.arange(1, 101), torch.full((len(parts[2]),), 200)]).long()
    order = torch.randperm(len(boxes))
    boxes, idxs, scores = boxes[order], idxs[order], torch.linspace(1, 0, len(boxes))
    actual = batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.6)
    members = [torch.where(idxs == label)[0] for label in idxs.unique()]
    expected = torch.cat([m[by_every_pair(boxes[m], 0.6)] for m in members])
    assert torch.equal(actual.cpu(), expected.sort().values)


TILE = 64  # boxes that a CUDA block decides


@pytest.mark.parametrize("n", [TILE - 1, TILE, TILE + 1, 2 * TILE - 1, 2 * TILE, 2 * TILE + 1, 5 * TILE + 3])
def test_sizes_round_a_tile(device: torch.device, n: int) -> None:
    boxes, scores = clusters(n, objects=6), torch.rand(n).round(decimals=2)
    for threshold in (-1.0, 0.0, 0.3, 0.6, 1.0):
        actual = nms(boxes.to(device), scores.to(device), threshold)
        assert actual.tolist() == reference(boxes, scores, threshold)


@pytest.mark.parametrize(
    "sizes",
    [
        (TILE, TILE, TILE),
        (1, TILE - 1, 1, TILE + 1, 3 * TILE, 1),
        (TILE // 2, TILE, 2 * TILE, 5, 5, 5, 4 * TILE),
        (3 * TILE + 7, 1, 1, 2 * TILE),
    ],
)
def test_classes_round_a_tile(device: torch.device, sizes: tuple[int, ...]) -> None:
    idxs = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[torch.randperm(sum(sizes))]
    boxes, scores = clusters(len(idxs), objects=6), torch.rand(len(idxs)).round(decimals=2)
    actual = batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.4)
    assert actual.tolist() == by_class(boxes, scores, idxs, 0.4)


def test_chains(device: torch.device) -> None:
    """Each box overlaps its neighbours alone, in order of score: every second one goes, as late as can be."""
    n = 3 * TILE + 10
    left = 6.0 * torch.arange(n)
    boxes = torch.stack([left, torch.zeros(n), left + 10, torch.ones(n)], dim=1)
    keep = nms(boxes.to(device), torch.linspace(1, 0, n, device=device), 0.2)
    assert torch.equal(keep.cpu(), torch.arange(0, n, 2))


def test_nan_has_no_sign(device: torch.device) -> None:
    scores = torch.tensor([1.0, -NAN, INF, NAN, -INF]).to(device)
    assert torch.signbit(scores[1]) and nms(lattice(5, 1).to(device), scores, 0.5).tolist() == [1, 3, 2, 0, 4]
    boxes, idxs = torch.tensor([[0.0, 0, 4, 4]]).repeat(6, 1), torch.tensor([0.0, NAN, -0.0, -NAN, 1.0, NAN])
    for dtype in (torch.float16, torch.float32, torch.float64):
        actual = batched_nms(boxes.to(device), torch.linspace(1, 0, 6, device=device), idxs.to(device, dtype), 0.5)
        assert actual.tolist() == [0, 1, 4]


@pytest.mark.threads
def test_threads_change_nothing(device: torch.device) -> None:
    boxes, scores, idxs = clusters(20000), torch.rand(20000), torch.randint(0, 60, (20000,))
    arguments = [t.to(device) for t in (boxes, scores, idxs)]
    images = [t.view(4, 5000, *t.shape[1:]) for t in arguments]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            padded = nms_padded(images[0], images[1], 0.5, 900, images[2])
            results.append((batched_nms(*arguments, 0.5), *padded))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("max_output", [0, 1, 5, 40, 100])
def test_padded_is_the_beginning(device: torch.device, max_output: int) -> None:
    boxes, scores, idxs = (
        random_boxes(60).to(device),
        torch.rand(60, device=device),
        torch.arange(60, device=device) % 4,
    )
    for classes in (None, idxs):
        full = nms(boxes, scores, 0.4) if classes is None else batched_nms(boxes, scores, classes, 0.4)
        keep, count = nms_padded(boxes, scores, 0.4, max_output, classes)
        assert keep.shape == (max_output,) and count.shape == () and keep.dtype == count.dtype == torch.int64
        assert count.item() == min(len(full), max_output)
        assert torch.equal(keep[: count.item()], full[:max_output]) and (keep[count.item() :] == -1).all()


def test_padded_over_images(device: torch.device) -> None:
    boxes, scores = random_boxes(90).view(3, 30, 4).to(device), torch.rand(3, 30, device=device)
    idxs = torch.randint(0, 3, (3, 30), device=device)
    for classes in (None, idxs):
        keep, count = nms_padded(boxes, scores, 0.5, 20, classes, score_threshold=0.2)
        assert keep.shape == (3, 20) and count.shape == (3,)
        for i in range(3):
            alone = nms_padded(boxes[i], scores[i], 0.5, 20, None if classes is None else classes[i], 0.2)
            assert torch.equal(keep[i], alone[0]) and count[i] == alone[1]


@pytest.mark.parametrize("max_output", [1, 3, TILE, TILE + 1, 250])
def test_padded_over_images_of_many_tiles(device: torch.device, max_output: int) -> None:
    boxes, scores = torch.stack([clusters(300, objects=k) for k in (2, 20, 60)]), torch.rand(3, 300).round(decimals=2)
    idxs = torch.stack([torch.arange(300) % k for k in (1, 2, 50)])
    arguments = [t.to(device) for t in (boxes, scores, idxs)]
    for classes in (False, True):
        keep, count = nms_padded(*arguments[:2], 0.5, max_output, arguments[2] if classes else None)
        for i in range(3):
            expected = by_class(boxes[i], scores[i], idxs[i] if classes else torch.zeros(300), 0.5)[:max_output]
            assert count[i] == len(expected)
            assert keep[i].tolist() == expected + [-1] * (max_output - len(expected))


def test_lowest_score_of_all(device: torch.device) -> None:
    scores = torch.tensor([-(2**63), 0, -(2**63)], device=device)
    keep, count = nms_padded(lattice(3, 1).to(device), scores, 0.5, 3, score_threshold=-INF)
    assert keep.tolist() == [1, 0, 2] and count == 3


def test_score_threshold(device: torch.device) -> None:
    boxes = lattice(6, 1).to(device)
    scores = torch.tensor([0.5, NAN, 0.7, 0.25, 0.5000001, INF], device=device)
    keep, count = nms_padded(boxes, scores, 0.5, 6, score_threshold=0.5)
    assert keep.tolist() == [5, 2, 4, -1, -1, -1] and count == 3
    keep, count = nms_padded(boxes, scores, 0.5, 6, score_threshold=INF)
    assert keep.tolist() == [-1] * 6 and count == 0


def test_padded_stops_early_in_a_grid(device: torch.device, fewer: int) -> None:
    boxes = lattice(100, 50 // fewer).to(device)
    scores, longest = torch.rand(len(boxes), device=device), LIST // fewer
    for limit in (longest - 1, longest, longest + 1, longest + 9, longest + 560 // fewer):
        assert torch.equal(nms_padded(boxes, scores, 0.5, limit)[0], nms(boxes, scores, 0.5)[:limit])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Boxes, distinct scores and a threshold; on a grid, so that ties are common."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    n, extent = draw(st.integers(1, 300)), draw(st.sampled_from([8, 40, 400]))
    corner = torch.randint(0, extent, (n, 2))
    boxes = torch.cat([corner, corner + torch.randint(0, draw(st.sampled_from([6, 50])), (n, 2))], dim=1).float()
    return boxes, torch.randperm(n) / n, draw(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.7, 0.9]))


@pytest.fixture(params=INSTRUCTION_SETS, scope="module")
def each_instruction_set(request: pytest.FixtureRequest):
    before = detops._C.instruction_set()
    detops._C.set_instruction_set(request.param)
    yield
    detops._C.set_instruction_set(before)


@pytest.mark.usefixtures("each_instruction_set")
@PROPERTY
@given(problems())
def test_maximal_independent_set_in_order_of_score(problem: tuple[Tensor, Tensor, float]) -> None:
    boxes, scores, threshold = problem
    keep = nms(boxes, scores, threshold)
    assert (scores[keep].diff() < 0).all()
    above = box_iou(boxes, boxes).double() > threshold
    assert not above[keep][:, keep].fill_diagonal_(False).any()
    dropped = torch.ones(len(boxes), dtype=torch.bool)
    dropped[keep] = False
    better = scores[keep][:, None] > scores
    assert (above[keep] & better).any(dim=0)[dropped].all()


@pytest.mark.usefixtures("each_instruction_set")
@PROPERTY
@given(problems(), st.integers(-1000, 1000), st.integers(-20, 20))
def test_invariances(problem: tuple[Tensor, Tensor, float], shift: int, exponent: int) -> None:
    boxes, scores, threshold = problem
    keep = nms(boxes, scores, threshold)
    order = torch.randperm(len(boxes))
    assert torch.equal(order[nms(boxes[order], scores[order], threshold)], keep)
    assert torch.equal(nms(boxes + shift, scores, threshold), keep)
    assert torch.equal(nms(boxes * 2.0**exponent, scores, threshold), keep)
    assert torch.equal(nms(boxes[:, [1, 0, 3, 2]], scores, threshold), keep)
    assert torch.equal(nms(boxes, scores * 3 - 7, threshold), keep)


@pytest.mark.parametrize("threshold", [0.12, 0.3, 0.45, 0.5, 0.6, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("vertical", [False, True])
def test_partners_at_the_limit(device: torch.device, threshold: float, vertical: bool, fewer: int) -> None:
    """Pairs as far apart, and of sizes as unlike, as their overlap allows: where a grid could miss a neighbour."""
    n, t = 10000 // fewer, threshold * 1.0005
    width = 2 ** (4 * torch.rand(n).double())
    other = width * t ** (2 * torch.rand(n).double() - 1)
    shared = t * (width + other) / (1 + t)
    begin = 500.0 * torch.arange(n) + 100 * torch.rand(n)
    end = begin + width
    other_begin = torch.where(torch.rand(n) < 0.5, end - shared, begin + shared - other)
    height = torch.rand(n) * 50 + 1
    zero = torch.zeros(n)
    first = torch.stack([begin, zero, end, height], dim=1)
    second = torch.stack([other_begin, zero, other_begin + other, height], dim=1)
    boxes = torch.cat([first, second])
    if vertical:
        boxes = boxes[:, [1, 0, 3, 2]]
    keep = nms(boxes.to(device), torch.linspace(1, 0, 2 * n, dtype=torch.float64, device=device), threshold)
    assert torch.equal(keep.cpu(), torch.arange(n))


@pytest.mark.usefixtures("each_instruction_set")
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.1, 0.99), st.floats(0, 6), st.floats(0, 3), st.floats(-3, 6))
def test_grid_is_the_list(seed: int, threshold: float, spread: float, aspect: float, offset: float) -> None:
    """More boxes than a list takes, against the decision of every pair."""
    torch.manual_seed(seed)
    n = 2500
    size = 10 ** (spread * torch.rand(n, 1) + aspect * (torch.rand(n, 2) - 0.5))
    centre = torch.rand(n, 2) * size.mean() * 20 + 10**offset
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    assert torch.equal(nms(boxes, torch.linspace(1, 0, n), threshold), by_every_pair(boxes, threshold))


def exact_boxes(n: int) -> Tensor:
    corner = torch.randint(0, 60, (n, 2)) / 4
    return torch.cat([corner, corner + torch.randint(1, 60, (n, 2)) / 4], dim=1).double()


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    samples = [
        Sample((exact_boxes(n), torch.randperm(n).double() / 64, threshold), castable=(0, 1))
        for n, threshold in ((20, 0.3), (1, 0.5), (0, 0.5))
    ]
    check_operator(nms, samples, device)


@pytest.mark.one_instruction_set
def test_batched_operator(device: torch.device) -> None:
    samples = [
        Sample((exact_boxes(n), torch.randperm(n).double() / 64, torch.arange(n) % 3, 0.3), castable=(0, 1))
        for n in (20, 0)
    ]
    check_operator(batched_nms, samples, device)


@pytest.mark.one_instruction_set
def test_padded_operator(device: torch.device) -> None:
    boxes, scores = exact_boxes(20), torch.randperm(20).double() / 64
    samples = [
        Sample((boxes, scores, 0.3, 8), castable=(0, 1)),
        Sample((boxes, scores, 0.3, 8, torch.arange(20) % 2, 0.0625), castable=(0, 1)),
        Sample((boxes.view(2, 10, 4), scores.view(2, 10), 0.3, 8), castable=(0, 1)),
        Sample((boxes[:0], scores[:0], 0.3, 8), castable=(0, 1)),
        Sample((boxes.view(2, 10, 4)[:0], scores.view(2, 10)[:0], 0.3, 8), castable=(0, 1)),
        Sample((boxes, scores, 0.3, 0), castable=(0, 1)),
    ]
    check_operator(nms_padded, samples, device)


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_compiled_with_few_boxes_kept(device: torch.device, n: int) -> None:
    """Torchvision's raises `u0 >= 2` here."""

    @torch.compile(fullgraph=True, backend="aot_eager")
    def detect(boxes: Tensor, scores: Tensor) -> Tensor:
        keep = nms(boxes, scores, 0.5)
        return boxes[keep] * 2

    torch.compiler.reset()
    boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(n, 1).to(device)
    assert torch.equal(detect(boxes, torch.rand(n, device=device)), boxes[:1] * 2)


def test_boxes_and_scores_differ_in_dtype(device: torch.device) -> None:
    boxes, scores = exact_boxes(50).to(device), torch.rand(50, device=device)
    expected = nms(boxes, scores, 0.5)
    for boxes_dtype, scores_dtype in itertools.product((torch.float16, torch.float32), (torch.float32, torch.float64)):
        assert torch.equal(nms(boxes.to(boxes_dtype), scores.to(scores_dtype), 0.5), expected)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(nms(boxes.float(), scores, 0.5), expected)


def test_inputs_with_gradient(device: torch.device) -> None:
    boxes = exact_boxes(5).to(device).requires_grad_()
    scores = torch.rand(5, device=device, requires_grad=True)
    (boxes[nms(boxes, scores, 0.5)].sum() + scores[nms_padded(boxes, scores, 0.5, 1)[0]].sum()).backward()
    assert boxes.grad is not None and scores.grad is not None


BAD: list[tuple[Callable[..., tuple[Tensor, ...]], str]] = [
    (lambda b, s, c: (b[:, :3], s, c), r"expected boxes of shape \(\*, 4\), got \(5, 3\)"),
    (lambda b, s, c: (b[0], s, c), r"expected boxes of shape \(\*, 4\), got \(4\)"),
    (lambda b, s, c: (b, s[:3], c), r"expected scores of shape \(5\), got \(3\)"),
    (lambda b, s, c: (b, b, c), r"expected scores of shape \(5\), got \(5, 4\)"),
    (lambda b, s, c: (b.bool(), s, c), r"expected boxes of a floating or integer dtype, got bool"),
    (lambda b, s, c: (b, s.to(torch.complex64), c), r"expected scores of a floating or integer dtype, got"),
    (lambda b, s, c: (b, s.to("meta"), c), r"expected scores on the device of boxes, .*, got"),
]
BAD_CLASSES: list[tuple[Callable[..., tuple[Tensor, ...]], str]] = [
    (lambda b, s, c: (b, s, c[:2]), r"expected idxs of shape \(5\), got \(2\)"),
    (lambda b, s, c: (b, s, c.bool()), r"expected idxs of a floating or integer dtype, got bool"),
    (lambda b, s, c: (b, s, c.to("meta")), r"expected idxs on the device of boxes, .*, got"),
]


@pytest.mark.parametrize(("make", "message"), [*BAD, *BAD_CLASSES])
def test_says_what_is_wrong(device: torch.device, make: Callable[..., tuple[Tensor, ...]], message: str) -> None:
    boxes, scores, idxs = make(exact_boxes(5).to(device), torch.rand(5, device=device), torch.arange(5, device=device))
    if "idxs" not in message:
        with pytest.raises(RuntimeError, match=f"^nms: {message}"):
            nms(boxes, scores, 0.5)
    with pytest.raises(RuntimeError, match=f"^batched_nms: {message}"):
        batched_nms(boxes, scores, idxs, 0.5)
    with pytest.raises(RuntimeError, match=f"^nms_padded: {message}"):
        nms_padded(boxes, scores, 0.5, 3, idxs)


def test_images_must_match(device: torch.device) -> None:
    boxes, scores = torch.zeros(2, 3, 4, device=device), torch.zeros(2, 4, device=device)
    with pytest.raises(RuntimeError, match=r"^nms_padded: expected scores of shape \(2, 3\), got \(2, 4\)"):
        nms_padded(boxes, scores, 0.5, 3)
    with pytest.raises(RuntimeError, match=r"^nms: expected boxes of shape \(\*, 4\), got \(2, 3, 4\)"):
        nms(boxes, scores, 0.5)


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_numbers_without_meaning(where: str) -> None:
    boxes, scores, idxs = (torch.zeros(*shape, device=where) for shape in ((5, 4), (5,), (5,)))
    for function, arguments in ((nms, ()), (batched_nms, (idxs,))):
        with pytest.raises(RuntimeError, match="nms: expected iou_threshold to be a number, got nan"):
            function(boxes, scores, *arguments, NAN)
    with pytest.raises(RuntimeError, match=r"^nms_padded: expected max_output to be 0 or more, got -1"):
        nms_padded(boxes, scores, 0.5, -1)
    with pytest.raises(RuntimeError, match=r"^nms_padded: expected score_threshold to be a number, got nan"):
        nms_padded(boxes, scores, 0.5, 3, score_threshold=NAN)


@pytest.mark.parametrize(("make", "message"), [*BAD[:5], *BAD_CLASSES[:2]])
def test_traced_programs_say_the_same(make: Callable[..., tuple[Tensor, ...]], message: str) -> None:
    boxes, scores, idxs = make(exact_boxes(5), torch.rand(5), torch.arange(5))
    for function in (batched_nms, lambda b, s, c, t: nms_padded(b, s, t, 3, c)):
        with pytest.raises(RuntimeError) as eager:
            function(boxes, scores, idxs, 0.5)
        with pytest.raises(RuntimeError) as traced:
            function(*(t.to("meta") for t in (boxes, scores, idxs)), 0.5)
        assert str(traced.value) == str(eager.value)


@pytest.mark.large
def test_more_numbers_than_32_bits_count() -> None:
    """2^29 + 1 boxes have 2^31 + 4 coordinates; expanded from one, never copied. 7 GB at most."""
    n = 2**31 // 4 + 1
    boxes = torch.zeros(1, 4, dtype=torch.float16).expand(n, 4)
    scores = torch.full((1,), 0.25).expand(n).clone()
    scores[-1] = 1
    keep, count = nms_padded(boxes, scores, 0.5, 2, score_threshold=0.5)
    assert keep.tolist() == [n - 1, -1] and count == 1


def test_more_boxes_than_32_bits_count() -> None:
    boxes, scores = torch.zeros(1, 4).expand(2**32, 4), torch.zeros(1).expand(2**32)
    with pytest.raises(RuntimeError, match=r"^nms: expected boxes to be fewer than 2\^32, got 4294967296"):
        nms(boxes, scores, 0.5)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(n: int, images: int) -> list[Tensor]:
    """Boxes, scores and classes."""
    boxes = clusters(images * n, objects=200).view(images, n, 4)
    return [t.cuda() for t in (boxes, torch.rand(images, n), torch.randint(0, 5, (images, n)))]


@needs_gpu
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("images", "n"), [(1, 20_000), (4, 3000)])
def test_padded_in_a_cuda_graph(images: int, n: int, classes: bool) -> None:
    def run(boxes: Tensor, scores: Tensor, idxs: Tensor) -> tuple[Tensor, Tensor]:
        return nms_padded(boxes, scores, 0.6, 500, idxs if classes else None, score_threshold=0.1)

    inputs = on_gpu(n, images)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(*inputs)
    for _ in range(3):
        fresh = on_gpu(n, images)
        for old, new in zip(inputs, fresh, strict=True):
            old.copy_(new)
        graph.replay()
        for actual, expected in zip(outputs, run(*(t.cpu() for t in fresh)), strict=True):
            assert torch.equal(actual.cpu(), expected)


@needs_gpu
def test_waits_for_the_gpu() -> None:
    """Never where the answer's size is fixed, else once."""
    boxes, scores, idxs = (t[0] for t in on_gpu(5000, 1))
    nms_padded(boxes, scores, 0.6, 100, idxs, 0.1)
    try:
        torch.cuda.set_sync_debug_mode("error")
        nms_padded(boxes, scores, 0.6, 100, idxs, 0.1)
        nms_padded(boxes[None], scores[None], 0.6, 100)
        torch.cuda.set_sync_debug_mode("warn")
        for function, arguments in ((nms, ()), (batched_nms, (idxs,))):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                function(boxes, scores, *arguments, 0.6)
            assert sum("synchronizing CUDA operation" in str(w.message) for w in caught) == 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_memory_is_linear() -> None:
    """A bit for each pair of 100,000 boxes would be 1.25 GB."""
    boxes, scores, idxs = (t[0] for t in on_gpu(100_000, 1))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    keep = batched_nms(boxes, scores, idxs, 0.6)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20
    assert torch.equal(keep.cpu(), batched_nms(boxes.cpu(), scores.cpu(), idxs.cpu(), 0.6))
