"""Models in files that say how to build them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detops import detectors, model_file
from detops._errors import UserError
from detops.model_file import ModelConfig

SMALL = ModelConfig("detect", "ssdlite320_mobilenet_v3_large", ("cat", "dog"), {"size": (64, 64)})


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = SMALL.build().eval()
    model_file.save(tmp_path / "new" / "model.safetensors", model, SMALL)
    loaded, config = model_file.load(tmp_path / "new" / "model.safetensors")
    assert config == ModelConfig(SMALL.task, SMALL.name, SMALL.classes, {"size": [64, 64]})
    assert not loaded.training
    images = [torch.rand(3, 80, 60)]
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", detectors.names())
def test_num_classes_counts_the_background_where_the_head_does(name: str) -> None:
    with torch.device("meta"):
        model = detectors.build(name, num_classes=detectors.num_classes(name, 3))
    assert len(model.head.labels) == 3


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def interrupted() -> None:
        with model_file.replacing(file) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    missing, text, bare, other, wrong = (tmp_path / name for name in ("missing", "text", "bare", "other", "wrong"))
    text.write_text("not safetensors")
    save_file({"a": torch.zeros(1)}, bare)
    save_file({"a": torch.zeros(1)}, other, {"detops": "{}"})
    save_file({"a": torch.zeros(1)}, wrong, {"detops": SMALL.to_json()})
    for path, message in (
        (missing, "found none at"),
        (text, "expected a model in"),
        (bare, "without their configuration"),
        (other, "a model's configuration"),
        (wrong, "backbone"),
    ):
        with pytest.raises(UserError, match=message) as error:
            model_file.load(path)
        assert str(path) in str(error.value)


def test_config_rejects_what_it_cannot_build() -> None:
    with pytest.raises(ValueError, match="expected task of detect, classify, segment, got 'paint'"):
        ModelConfig("paint", "resnet18", ("a",))
    with pytest.raises(ValueError, match="expected classes of at least one name"):
        ModelConfig("detect", "ssd300_vgg16", ())
    with pytest.raises(ValueError, match="expected a detector of"):
        ModelConfig("detect", "nosuch", ("a",)).build()


def test_a_full_disk_is_named_by_the_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the one before")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        with pytest.raises(OSError, match=r"model\.safetensors"), model_file.replacing(path) as temporary:
            temporary.write_bytes(bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the one before"]
