import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detops.ops import box_area, box_convert, clip_boxes_to_image

UPRIGHT = {"xyxy": [1.0, 2.0, 4.0, 8.0], "xywh": [1.0, 2.0, 3.0, 6.0], "cxcywh": [2.5, 5.0, 3.0, 6.0]}
# A 2 x 4 box turned by 90 degrees counter-clockwise: its first side points up, its second to the right.
ROTATED = {
    "cxcywhr": [7.0, 9.0, 2.0, 4.0, 90.0],
    "xywhr": [5.0, 10.0, 2.0, 4.0, 90.0],
    "xyxyxyxy": [5.0, 10.0, 5.0, 8.0, 9.0, 8.0, 9.0, 10.0],
}


@pytest.mark.parametrize("formats", [UPRIGHT, ROTATED], ids=["upright", "rotated"])
def test_convert_by_hand(formats: dict[str, list[float]]) -> None:
    for (given_fmt, box), (wanted_fmt, expected) in itertools.product(formats.items(), repeat=2):
        boxes = torch.tensor(box).expand(2, 3, -1)
        actual = box_convert(boxes, given_fmt, wanted_fmt)
        torch.testing.assert_close(actual, torch.tensor(expected).expand(2, 3, -1), rtol=1e-6, atol=1e-5)
        assert actual.data_ptr() != boxes.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_convert_agrees_with_torchvision(dtype: torch.dtype) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    for formats in (UPRIGHT, ROTATED):
        for given_fmt, wanted_fmt in itertools.product(formats, repeat=2):
            boxes = (torch.rand(20, len(formats[given_fmt])) * 50).to(dtype)
            actual, expected = box_convert(boxes, given_fmt, wanted_fmt), peer.box_convert(boxes, given_fmt, wanted_fmt)
            assert actual.dtype == expected.dtype
            # Rotated integers are rounded once here, at every intermediate format there.
            exact = dtype.is_floating_point or formats is UPRIGHT
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4 if exact else 1)


def test_convert_gradient() -> None:
    for formats in (UPRIGHT, ROTATED):
        for given_fmt, wanted_fmt in itertools.permutations(formats, 2):
            boxes = torch.tensor([formats[given_fmt]], dtype=torch.float64).requires_grad_()
            assert torch.autograd.gradcheck(lambda b, i=given_fmt, o=wanted_fmt: box_convert(b, i, o), (boxes,))


@settings(max_examples=50, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(1, 50), st.floats(1, 50), st.floats(-179, 179))
def test_rotated_round_trip(cx: float, cy: float, w: float, h: float, angle: float) -> None:
    box = torch.tensor([[cx, cy, w, h, angle]], dtype=torch.float64)
    for fmt in ("xywhr", "xyxyxyxy"):
        torch.testing.assert_close(box_convert(box_convert(box, "cxcywhr", fmt), fmt, "cxcywhr"), box)


def test_area() -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    assert box_area(torch.tensor([[0, 0, 2, 3]])).tolist() == [6]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32):
        boxes = (torch.rand(2, 5, 4) * 300).to(dtype)
        for fmt in UPRIGHT:
            actual, expected = box_area(boxes, fmt), peer.box_area(boxes, fmt)
            torch.testing.assert_close(actual, expected, check_dtype=dtype != torch.bfloat16)
    assert box_area(torch.tensor([[0.0, 0.0, 300.0, 300.0]]).half()).tolist() == [90000.0]  # beyond half's range


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_clip(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[-3, -1, 5, 6], [2, 3, 40, 50], [60, 70, 80, 90]], dtype=dtype)
    clipped = clip_boxes_to_image(boxes, (20, 30))
    assert clipped.tolist() == [[0, 0, 5, 6], [2, 3, 30, 20], [30, 20, 30, 20]]
    assert clipped.dtype == dtype
    assert torch.equal(clip_boxes_to_image(boxes.view(1, 3, 4), (20, 30))[0], clipped)


def test_compile() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 5], [-3, 0, 2, 2]])
    for function in (
        lambda b: box_convert(b, "xyxy", "cxcywh"),
        lambda b: clip_boxes_to_image(b, (3, 3)),
        box_area,
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(boxes), function(boxes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: box_area(b[:, :3]), r"box_area: expected boxes of shape \(\*, 4\), got \(2, 3\)"),
        (lambda b: box_area(b, "cxcywhr"), "box_area: expected fmt 'xyxy', 'xywh' or 'cxcywh', got 'cxcywhr'"),
        (lambda b: box_convert(b, "yolo", "xyxy"), r"box_convert: expected in_fmt one of \(.*\), got 'yolo'"),
        (lambda b: box_convert(b, "xyxy", "yolo"), r"box_convert: expected out_fmt one of \(.*\), got 'yolo'"),
        (lambda b: box_convert(b, "xyxy", "xywhr"), "expected out_fmt of the kind, upright or rotated, of 'xyxy'"),
        (lambda b: box_convert(b, "xywhr", "cxcywhr"), r"box_convert: expected boxes of shape \(\*, 5\), got \(2, 4\)"),
        (
            lambda b: clip_boxes_to_image(b[0, 0], (3, 3)),
            r"clip_boxes_to_image: expected boxes of shape \(\*, 4\), got",
        ),
    ],
)
def test_says_what_is_wrong(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 4))
