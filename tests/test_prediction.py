"""Predictions: of images in memory, and by ``detops predict`` and ``detops evaluate`` of files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("PIL")

from PIL import Image

from detops import cli, model_file, prediction
from detops.commands import evaluate
from detops.commands import predict as command
from detops.evaluation import ClassificationEvaluator, VocEvaluator
from detops.model_file import ModelConfig

CONFIG = ModelConfig(
    "detect", "retinanet_resnet50_fpn", ("cat", "dog"), {"backbone": "resnet10t", "min_size": 64, "score_thresh": 0.0}
)
SSD = ModelConfig("detect", "ssdlite320_mobilenet_v3_large", ("cat", "dog"), {"size": (64, 64)})


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, CONFIG.build(), CONFIG)
    return path


class Fixed(torch.nn.Module):
    """A model that says the same of every image."""

    def __init__(self, output):
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.output = output

    def forward(self, images):
        return [self.output for _ in images]


def picture(path: Path, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture
def predict(weights, tmp_path, monkeypatch, capsys):
    """Runs ``detops predict`` in an empty folder with the output folder ``out``; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = cli.main(
            ["predict", *map(str, arguments), "--weights", str(weights), "--out", "out", "--device", "cpu"]
        )
        return status, *capsys.readouterr()

    return run


def read(name: str):
    return json.loads((Path("out") / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("config", [CONFIG, SSD])
def test_labels_start_at_zero_whatever_the_head(config):
    torch.manual_seed(0)
    model = config.build().eval()
    images = [torch.rand(3, 64, 80), torch.rand(3, 50, 40)]
    with torch.no_grad():
        raw = model(images)
    found = prediction.predict(model, "detect", images)
    assert sum(len(one["labels"]) for one in found) > 0
    for one, expected in zip(found, raw, strict=True):
        assert set(one["labels"].tolist()) <= {0, 1}
        torch.testing.assert_close(one["labels"] + model.head.labels.start, expected["labels"])
        torch.testing.assert_close(one["boxes"], expected["boxes"])


def test_records_are_coco_results():
    found = {
        "boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0], [0, 0, 1, 1]]),
        "labels": torch.tensor([1, 0]),
        "scores": torch.tensor([0.75, 0.25]),
    }
    assert prediction.records("detect", prediction.above(found, 0.5), ("cat", "dog")) == [
        {"category_id": 1, "category_name": "dog", "bbox": [1, 2, 3, 6], "score": 0.75}
    ]


def test_files_folders_and_patterns(predict):
    names = ["one.png", "in/a/x.png", "in/b/x.png", "in/b/x.jpg", "in/b/x.bmp", "more/y.png", "more/y.jpg"]
    for name in names:
        picture(Path(name))
    Path("in/notes.txt").write_text("no picture")
    status, out, err = predict(
        "one.png", "in", "more/*.png", "in/a/x.png", "--score-threshold", "0", "--batch-size", "2"
    )
    assert (status, err) == (0, "")
    images = read("images.json")
    assert [image["file_name"] for image in images] == ["one.png", *sorted(names[1:5]), "more/y.png"]
    assert [image["id"] for image in images] == [1, 2, 3, 4, 5, 6]
    assert all((image["height"], image["width"]) == (30, 40) for image in images)
    results = read("predictions.json")
    assert {result["image_id"] for result in results} == {1, 2, 3, 4, 5, 6}
    assert f"{len(results)} objects in 6 images" in out
    drawn = sorted(str(path.relative_to("out/pictures")) for path in Path("out/pictures").rglob("*") if path.is_file())
    assert drawn == ["in/a/x.png", "in/b/x.bmp.png", "in/b/x.jpg", "in/b/x.png", "more/y.png", "one.png"]
    for path in drawn:
        assert pixels_of(Path("out/pictures") / path).shape == (30, 40, 3)


def test_again_into_a_folder_within_the_images(weights, tmp_path):
    picture(tmp_path / "x.png")
    for _ in range(2):
        arguments = [str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out"), "--device", "cpu"]
        assert cli.main(["predict", *arguments]) == 0
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())) == 1


def test_unreadable_images_are_reported_at_the_end(predict):
    picture(Path("good.png"))
    Path("bad.png").write_bytes(picture(Path("cut.png")).read_bytes()[:200])
    Path("cut.png").unlink()
    status, out, err = predict("bad.png", "good.png", "--no-pictures")
    assert status == 1
    assert "1 image, 1 could not be read" in out
    assert err.startswith("detops: bad.png: ") and err.count("\n") == 1
    bad, good = read("images.json")
    assert bad["file_name"] == "bad.png" and bad["error"]
    assert good == {"id": 2, "file_name": "good.png", "height": 30, "width": 40}
    assert not Path("out/pictures").exists()


def test_what_is_done_is_kept_after_an_interrupt(predict, monkeypatch):
    for name in "abc":
        picture(Path(f"{name}.png"))
    add = command.Writer.add

    def interrupted(writer, number, image, found):
        if number == 2:
            raise KeyboardInterrupt
        add(writer, number, image, found)

    monkeypatch.setattr(command.Writer, "add", interrupted)
    status, *_ = predict("a.png", "b.png", "c.png", "--score-threshold", "0")
    assert status == 130
    assert [image["file_name"] for image in read("images.json")] == ["a.png", "b.png"]
    assert {result["image_id"] for result in read("predictions.json")} == {1, 2}


def test_never_overwrites_an_image(predict):
    image = picture(Path("out/pictures/x.png"))
    before = image.read_bytes()
    status, _, err = predict("out/pictures/x.png")
    assert status == 2
    assert "expected another folder, out/pictures/x.png is one of the images" in err
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "predict: expected an image, a folder of images or a pattern, found none at none.png"),
        (["empty"], "found none at empty"),
        (["*.gif"], r"found none at \*.gif"),
        (["x.png", "--score-threshold", "2"], "--score-threshold: expected a number from 0 to 1, got '2'"),
        (["x.png", "--batch-size", "0"], "--batch-size: expected a whole number of at least 1, got '0'"),
    ],
)
def test_mistakes(predict, arguments, message):
    picture(Path("x.png"))
    Path("empty").mkdir()
    status, _, err = predict(*arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(message, err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device(weights, capsys):
    assert cli.main(["predict", "x.png", "--weights", str(weights), "--out", "out", "--device", "cuda"]) == 2
    assert "no usable CUDA device" in capsys.readouterr().err


def test_names_never_collide(tmp_path):
    files = [tmp_path / name for name in ("a/x.png", "b/x.png", "b/x.bmp", "b/x.bmp.png", "b/X.PNG", "b/x-2.png")]
    names = prediction.output_names(files, [".png", ".jpg"])
    assert [str(name) for name in names[:2]] == ["a/x.png", "b/x.png"]
    assert len({str(name).lower() for name in names}) == len(files)
    assert prediction.output_names([tmp_path / "a/x.png"], [".png"]) == [Path("x.png")]


def test_a_classifier(tmp_path):
    file = picture(tmp_path / "x.png")
    config = ModelConfig("classify", "resnet18", ("cat", "dog"))
    writer = command.Writer(tmp_path / "out", [file], config, with_pictures=True)
    command.predict_files(Fixed(torch.tensor([0.25, 0.75])), [file], writer, 1, 0.9)
    writer.close()
    (result,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert result == {
        "image_id": 1,
        "file_name": str(file),
        "category_id": 1,
        "category_name": "dog",
        "score": 0.75,
        "scores": {"cat": 0.25, "dog": 0.75},
    }
    assert (tmp_path / "out" / "pictures" / "x.png").exists()


@pytest.mark.parametrize("scores", [False, True])
def test_a_segmenter(tmp_path, scores):
    file = picture(tmp_path / "x.jpg")
    labels = torch.zeros(30, 40, dtype=torch.int64)
    labels[:10] = 1
    output = torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1) if scores else labels
    config = ModelConfig("segment", "resnet18", ("ground", "cell"))
    writer = command.Writer(tmp_path / "out", [file], config, with_pictures=False)
    command.predict_files(Fixed(output), [file], writer, 1, 0.9)
    writer.close()
    (result,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert result["pixels"] == {"ground": 800, "cell": 400}
    np.testing.assert_array_equal(pixels_of(tmp_path / "out" / result["labels"]), labels)
    assert not (tmp_path / "out" / "pictures").exists()


def test_evaluate_counts_every_image():
    truth = {"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([1])}
    model = Fixed(truth | {"scores": torch.tensor([0.9]), "labels": torch.tensor([2])})
    model.head = type("Head", (), {"labels": range(1, 3)})
    evaluator, steps = VocEvaluator(("cat", "dog")), []
    batches = [([torch.rand(3, 9, 9)] * n, [truth | {"image_id": f"{n}-{i}"} for i in range(n)]) for n in (2, 1)]
    assert evaluate.evaluate(model, "detect", batches, evaluator, steps.append) == 3
    assert steps == [2, 1]
    metrics = evaluator.compute()
    assert metrics.main[1] == 1 and metrics.classes[1].objects == 3

    classifier = ClassificationEvaluator(("cat", "dog"))
    evaluate.evaluate(Fixed(torch.tensor([0.1, 0.9])), "classify", [([torch.rand(3, 9, 9)] * 2, [0, 1])], classifier)
    assert classifier.compute().main[1] == 0.5
