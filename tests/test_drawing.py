"""Pictures: what shows where."""

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from detops import drawing

GREY = torch.full((3, 120, 160), 128, dtype=torch.uint8)


def drawn(boxes, labels, scores=None, classes=("cat", "dog"), image=GREY, masks=None):
    scores = None if scores is None else torch.tensor(scores)
    picture = drawing.draw_detections(
        image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels), scores, classes, masks
    )
    return np.array(picture)


def test_a_box_has_its_class_colour_and_its_inside_is_left():
    pixels = drawn([[20, 40, 100, 110]], [1], [0.9])
    for y, x in ((60, 20), (60, 99), (109, 50)):
        assert tuple(pixels[y, x]) == drawing.colour(1)
    assert (pixels[50:100, 30:90] == 128).all()
    assert (pixels[112:] == 128).all()
    assert (pixels[28:39, 20:30] != 128).any()  # the tag above


def test_the_image_is_left_as_it_is():
    before = GREY.clone()
    drawn([[20, 40, 100, 110]], [0], [0.9], masks=torch.ones(1, 120, 160, dtype=torch.bool))
    assert torch.equal(GREY, before)


def test_without_detections_it_is_the_image():
    assert (drawn([], []) == 128).all()


@pytest.mark.parametrize("size", [(8, 8), (1, 300), (2000, 30), (480, 640)])
@pytest.mark.parametrize(
    "box", [[0, 0, 1, 1], [-50, -50, 5000, 5000], [3, 3, 3, 3], [5, 5, 2, 2], [400, 400, 410, 410]]
)
def test_any_size_and_any_box(size, box):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    assert drawn([box], [0], [0.5], classes=("Möbel 椅子",), image=image).shape == (*size, 3)


def test_the_best_is_on_top():
    boxes = [[20, 40, 100, 110], [20, 40, 100, 110]]
    assert tuple(drawn(boxes, [0, 1], [0.9, 0.3])[60, 20]) == drawing.colour(0)
    assert tuple(drawn(boxes, [0, 1], [0.3, 0.9])[60, 20]) == drawing.colour(1)


def test_masks_tint():
    mask = torch.zeros(1, 120, 160, dtype=torch.bool)
    mask[:, 60:80, 40:80] = True
    pixels = drawn([[40, 60, 80, 80]], [0], masks=mask)
    expected = (0.55 * 128 + 0.45 * np.array(drawing.colour(0))).astype(np.uint8)
    assert (pixels[70, 60] == expected).all()
    assert (pixels[100, 60] == 128).all()


def test_segmentation_leaves_the_background_and_what_is_ignored():
    labels = torch.zeros(120, 160, dtype=torch.uint8)
    labels[60:, :80], labels[60:, 80:] = 1, 255
    pixels = np.array(drawing.draw_segmentation(GREY, labels, ("ground", "cell")))
    assert (pixels[90, 40] != 128).any()
    assert (pixels[90, 120] == 128).all() and (pixels[40, 100] == 128).all()
    assert tuple(pixels[2, 1]) == drawing.colour(1)  # the legend


def test_a_label_map_holds_the_numbers():
    labels = torch.tensor([[0, 1], [7, 255]], dtype=torch.uint8)
    picture = drawing.label_map(labels)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.array(picture), labels)
    assert picture.convert("RGB").getpixel((1, 0)) == drawing.colour(1)


def test_neighbouring_classes_differ():
    assert len({drawing.colour(label) for label in range(len(drawing.PALETTE))}) == len(drawing.PALETTE)
    assert drawing.colour(len(drawing.PALETTE)) == drawing.colour(0)
