"""What the tests of operators over regions share.

``pool`` is a function of tensors to the pooled regions; of the tensors given beside it, those that require a gradient
are differentiated.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from checks import LOW_PRECISION, assert_equal
from torch import Tensor
from torch.utils._pytree import tree_map_only

import detops

INF, NAN = math.inf, math.nan
MEANINGLESS = [NAN, INF, -INF, 1e30, -1e30, 3e38]  # as an edge
NO_IMAGE = [-1.0, 2.0, NAN, INF, -INF, 1e30]  # as an index of two images

Pool = Callable[..., Tensor]


# ---- References and inputs -------------------------------------------------------------------------------------------


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Value of a map at a point; the nearest pixel up to one outside, beyond that 0."""
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    rows = [(row, 1 - abs(y - row)) for row in range(height) if abs(y - row) < 1]
    columns = [(column, 1 - abs(x - column)) for column in range(width) if abs(x - column) < 1]
    return sum(v * u * plane[row][column] for row, v in rows for column, u in columns)


def aligned_means(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float = 1.0, ratio: int = -1, aligned: bool = False
) -> Tensor:
    """RoIAlign from the paper, point by point, in plain Python."""
    maps, (rows, columns) = features.double().tolist(), size
    output = torch.zeros(len(rois), features.shape[1], rows, columns, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        shift = 0.5 if aligned else 0.0
        x, y = x1 * scale - shift, y1 * scale - shift
        w, h = (x2 - x1) * scale, (y2 - y1) * scale
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        down = ratio if ratio > 0 else math.ceil(h / rows)
        across = ratio if ratio > 0 else math.ceil(w / columns)
        ys = [y + (p + (i + 0.5) / down) * h / rows for p in range(rows) for i in range(down)]
        xs = [x + (q + (j + 0.5) / across) * w / columns for q in range(columns) for j in range(across)]
        for c, plane in enumerate(maps[int(image)]):
            samples = torch.tensor([[bilinear(plane, v, u) for u in xs] for v in ys], dtype=torch.float64)
            if samples.numel():
                output[k, c] = samples.view(rows, down, columns, across).mean(dim=(1, 3))
    return output


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions on and over the edge of a map, some far out; coordinates in quarters, exact in every dtype."""
    corners = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = torch.randint(1, 4 * max(height, width), (k, 2)) / 4
    return torch.cat([torch.randint(images, (k, 1)), corners, corners + sizes], dim=1).double()


def small_input(n: int, c: int, h: int, w: int) -> Tensor:
    """Values in eighths, exact in every dtype."""
    return torch.randint(-16, 16, (n, c, h, w)).double() / 8


def boxes_by_image(device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Boxes of three images, of which the second has none, as a list and as regions (5, 5)."""
    boxes = [random_rois(n, 1, 10, 12)[:, 1:].float().to(device) for n in (2, 0, 3)]
    rois = [torch.cat([torch.full((len(b), 1), float(i), device=device), b], dim=1) for i, b in enumerate(boxes)]
    return boxes, torch.cat(rois)


def leaves(
    tensors: Sequence[Tensor],
    layout: torch.memory_format = torch.preserve_format,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Copies to differentiate, of which the maps (N, C, H, W) have a layout."""

    def leaf(tensor: Tensor) -> Tensor:
        kept = layout if tensor.dim() == 4 else torch.preserve_format
        copy = tensor.detach().to(device=device, copy=True, memory_format=kept)
        return copy.requires_grad_(tensor.requires_grad)

    return [leaf(tensor) for tensor in tensors]


def differentiate(pooled: Tensor, tensors: Sequence[Tensor], grad: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of ``pooled``'s sum, or weighted by ``grad``, for those tensors that require one."""
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if not wanted:
        return ()
    return torch.autograd.grad(pooled.sum() if grad is None else pooled, wanted, grad)


# ---- Invariants ------------------------------------------------------------------------------------------------------


def check_one_by_one(pool: Pool, rois: Tensor) -> Tensor:
    """A region depends neither on the others nor on their order; returns what they pool to."""
    order = torch.randperm(len(rois))
    pooled = pool(rois)
    assert torch.equal(pool(rois[order]), pooled[order])
    assert torch.equal(torch.cat([pool(roi[None]) for roi in rois]), pooled)
    return pooled


def check_transpose(pool: Pool, *features: Tensor) -> None:
    """<pool(x), g> = <x, gradient(g)> for any x and g."""
    pooled = pool(*features)
    grad = torch.randn_like(pooled)
    back = differentiate(pooled, features, grad)
    left = (pooled.double() * grad.double()).sum()
    right = sum((x.double() * g.double()).sum() for x, g in zip(features, back, strict=True))
    scale = (pooled.double() * grad.double()).abs().sum().item() + 1
    assert abs(left - right).item() <= 8 * torch.finfo(pooled.dtype).eps * scale


def check_many(
    pool: Pool, features: Tensor, rois: Tensor, grad: Tensor, device: torch.device, tolerance: float
) -> None:
    """Regions together are as in parts of fifty, forward and backward, in either layout."""
    pooled, gradients = [], []
    for some, grad_of_some in zip(rois.split(50), grad.split(50), strict=True):
        tensors = leaves([features, some])
        pooled.append(pool(*tensors))
        gradients.append(differentiate(pooled[-1], tensors, grad_of_some))
    of_features, *of_rois = zip(*gradients, strict=True)
    expected = [torch.cat(pooled), torch.stack(of_features).sum(dim=0), *(torch.cat(parts) for parts in of_rois)]
    for layout in (torch.contiguous_format, torch.channels_last):
        placed = leaves([features, rois], layout, device)
        together = pool(*placed)
        actual = [together, *differentiate(together, placed, grad.to(device, memory_format=layout))]
        torch.testing.assert_close([t.cpu() for t in actual], expected, rtol=tolerance, atol=tolerance)


def check_threads(pool: Pool, *tensors: Tensor) -> None:
    """Any number of threads gives the same bits, forward and backward, in either layout."""
    before, results = torch.get_num_threads(), []
    grad = torch.randn_like(pool(*tensors), memory_format=torch.contiguous_format)
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                placed = leaves(tensors, layout)
                pooled = pool(*placed)
                results.append((pooled.detach(), *differentiate(pooled, placed, grad)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_equal(result, results[0])


def check_instruction_sets_agree(pool: Pool, *tensors: Tensor, atol: float) -> None:
    """What counts is decided alike; sums differ by their rounding alone."""
    before, results = detops._C.instruction_set(), []
    try:
        for name in detops._C.instruction_sets():
            detops._C.set_instruction_set(name)
            pooled = pool(*tensors)
            results.append((pooled.detach(), *differentiate(pooled, tensors)))
    finally:
        detops._C.set_instruction_set(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=atol)


def check_layout_is_kept(pool: Pool, device: torch.device, rois: Tensor) -> None:
    """channels_last in, channels_last out, forward and backward; and a window of a larger tensor."""
    features = torch.randn(2, 24, 10, 12, device=device).to(memory_format=torch.channels_last).requires_grad_()
    pooled = pool(features, rois.to(device))
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(pooled.sum(), features)  # an expanded gradient
    assert grad.is_contiguous(memory_format=torch.channels_last)
    window = torch.randn(2, 40, 30, 30, device=device)[:, 3:30, 5:-4, 2:20]
    assert torch.equal(pool(window, rois.to(device)), pool(window.contiguous(), rois.to(device)))


def check_mixed_dtypes(pool: Pool, features: Tensor | list[Tensor], rois: Tensor) -> None:
    """The features' dtype is the result's, whatever the regions' and under autocast; geometry is the wider one's."""

    def to(dtype: torch.dtype) -> Any:
        return tree_map_only(Tensor, lambda t: t.to(dtype), features)

    for dtype in LOW_PRECISION:
        low = pool(to(dtype), rois)
        assert low.dtype == dtype
        rounded = tree_map_only(Tensor, Tensor.float, to(dtype))
        assert torch.equal(low, pool(rounded, rois).to(dtype))
        assert torch.equal(low, pool(to(dtype), rois.to(dtype)))
        with torch.autocast(rois.device.type, dtype=torch.bfloat16):
            assert torch.equal(pool(to(dtype), rois), low)
            torch.testing.assert_close(pool(to(dtype), rois.double()), low)
    fine = rois.double() + 1e-9
    torch.testing.assert_close(pool(features, fine), pool(to(torch.float64), fine).float())


def check_regions_chosen_at_run_time(pool: Pool, *tensors: Tensor) -> None:
    """Regions chosen inside one compiled program, any number of them, none included; the last tensor has them."""

    def program(*tensors: Tensor) -> Tensor:
        *others, rois, scores = tensors
        return pool(*others, rois[scores > 0.5]).square()

    torch.compiler.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
        k = len(tensors[-1])
        for scores in (torch.linspace(0, 1, k), torch.zeros(k), torch.ones(k), torch.eye(k)[2]):
            ours, theirs = leaves(tensors), leaves(tensors)
            actual, expected = compiled(*ours, scores), program(*theirs, scores)
            assert_equal(actual, expected)
            assert_equal(differentiate(actual, ours), differentiate(expected, theirs))


def check_on_a_gpu(pool: Pool, *tensors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same bits each time; returns the results, forward and backward, beside the CPU's, to compare."""
    ours = leaves(tensors)
    pooled = pool(*ours)
    grad = torch.randn_like(pooled)
    expected = [pooled.detach(), *differentiate(pooled, ours, grad)]
    results = []
    for _ in range(3):
        placed = leaves(tensors, device="cuda")
        actual = pool(*placed)
        results.append([actual.detach(), *differentiate(actual, placed, grad.cuda())])
    assert_equal(results[1:], [results[0]] * 2)
    return [(actual.cpu(), exact) for actual, exact in zip(results[0], expected, strict=True)]


# ---- Values and arguments without meaning ----------------------------------------------------------------------------


def check_meaningless(pool: Pool, value: float, *tensors: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """Neither crash nor endless loop, and other regions do not notice.

    Returns what they pool to and the gradients. The regions: a good one; four with ``value`` as one edge; one with it
    as all; one from it to its opposite. ``options`` are their tensor's.
    """
    good = [0.0, 1.0, 2.0, 9.0, 8.0]
    rows = [good] + [[*good[:i], value, *good[i + 1 :]] for i in range(1, 5)] + [[0.0] + [value] * 4]
    rows += [[0.0, -abs(value), -abs(value), abs(value), abs(value)]]
    regions = torch.tensor(rows, device=tensors[0].device, **options)
    pooled = pool(*tensors, regions)
    assert torch.equal(pooled[:1], pool(*tensors, regions[:1]))
    gradients = differentiate(pooled, (*tensors, regions))
    assert pooled.isfinite().all() and all(grad.isfinite().all() for grad in gradients)
    return (pooled, *gradients)


def check_image_is_refused(name: str, pool: Pool, index: float, region: Sequence[float] = (0.0, 0.0, 2.0, 2.0)) -> None:
    """On the CPU, which can look, an index that is none of two images' is an error."""
    with pytest.raises(RuntimeError, match=rf"^{name}: expected rois\[:, 0\] from 0 to 1, got .* in row 1"):
        pool(torch.tensor([[1.0, *region], [index, *region]]))


def check_images_are_zero(pool: Pool, region: Sequence[float], *features: Tensor, **options: Any) -> Tensor:
    """On a GPU, where nobody can look, such a region is zero, and neither passes nor gets a gradient.

    Returns what two possible ones pool to. ``options`` are those of the regions' tensor.
    """
    rows = [[index, *region] for index in (1.0, *NO_IMAGE, 3.0, 0.0)]
    regions = torch.tensor(rows, device=features[0].device, **options)
    possible = regions[[0, -1]].detach().requires_grad_(regions.requires_grad)
    pooled, expected = pool(*features, regions), pool(*features, possible)
    assert (pooled[1:-1] == 0).all() and (expected != 0).any() and torch.equal(pooled[[0, -1]], expected)
    gradients = differentiate(pooled, (*features, regions)), differentiate(expected, (*features, possible))
    assert_equal(gradients[0][: len(features)], gradients[1][: len(features)])
    if regions.requires_grad:
        assert (gradients[0][-1][1:-1] == 0).all()
        assert torch.equal(gradients[0][-1][[0, -1]], gradients[1][-1])
    assert (pool(*(maps[:0] for maps in features), regions) == 0).all()
    return expected


def mistakes(columns: int = 5) -> list[tuple[tuple[Any, ...], str]]:
    """Arguments (input, rois, output_size) that are wrong, and what is said."""
    maps, rois = torch.ones(1, 3, 4, 4), torch.zeros(2, columns)
    return [
        ((torch.ones(3, 4, 4), rois, 2), r"expected input of shape \(\*, \*, \*, \*\), got \(3, 4, 4\)"),
        ((maps.long(), rois, 2), "expected input of dtype float32, float64, float16 or bfloat16, got int64"),
        ((maps, rois[:, 1:], 2), rf"expected rois of shape \(\*, {columns}\), got \(2, {columns - 1}\)"),
        ((maps, rois.long(), 2), "expected rois of dtype float32, float64, float16 or bfloat16, got int64"),
        ((maps, rois.to("meta"), 2), "expected rois on the device of input, .*, got"),
        ((maps, rois, 0), "expected pooled_height of at least 1, got 0"),
        ((maps, rois, (2, -1)), "expected pooled_width of at least 1, got -1"),
        ((maps, rois, (2, 2, 2)), r"expected output_size of one or two numbers, got \(2, 2, 2\)"),
    ]


MISTAKEN_LISTS = [
    ((torch.ones(1, 3, 4, 4), [torch.ones(2, 5)], 2), r"expected boxes\[0\] of shape \(\*, 4\), got \(2, 5\)"),
    ((torch.ones(1, 3, 4, 4), [], 2), "expected boxes of at least one image, got an empty list"),
]


def check_mistake(function: Pool, arguments: Sequence[Any], message: str, device: torch.device) -> None:
    """One message, in eager mode and, unless it is about devices, traced."""

    def on(place: torch.device | str) -> Any:
        return tree_map_only(Tensor, lambda t: t if t.is_meta else t.to(place), tuple(arguments))

    with pytest.raises(RuntimeError, match=f"^{function.__name__}: {message}") as eager:
        function(*on(device))
    if " on the device of " in message:
        return
    with pytest.raises(RuntimeError) as traced:
        function(*on("meta"))
    assert str(traced.value) == str(eager.value)


# ---- Sizes -----------------------------------------------------------------------------------------------------------


def check_more_than_two_billion_inputs(pool: Pool, rois: Tensor) -> tuple[Tensor, ...]:
    """Offsets beyond 2^31 in the input, of which the last channel is one, the others zero; returns the gradients."""
    features = torch.zeros(1, 2049, 1024, 1024, dtype=torch.float16)
    features[0, 2048] = 1
    pooled = pool(features, rois)
    assert (pooled[0, 2048] == 1).all() and (pooled[0, :2048] == 0).all()
    return differentiate(pooled, [rois]) if rois.requires_grad else ()


def check_more_than_two_billion_outputs(pool: Pool, side: float, differentiable: bool = True) -> None:
    """The same in the output, 7 x 7 bins of each of many regions."""
    rois = torch.tensor([[0.0, 0.0, 0.0, side, side]]).expand(21_500, 5)
    leaf = torch.ones(1, 2049, 2, 2, dtype=torch.bfloat16).requires_grad_(differentiable)
    pooled = pool(leaf, rois)
    assert pooled.numel() > 2**31 and (pooled[-1] == 1).all()
    if differentiable:
        (grad,) = torch.autograd.grad(pooled, leaf, torch.ones((), dtype=torch.bfloat16).expand_as(pooled))
        torch.testing.assert_close(grad.float().sum((2, 3)), torch.full((1, 2049), 21_500.0 * 49), rtol=0.01, atol=0)
