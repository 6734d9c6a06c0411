"""What a training is asked to do, with the papers' values where nothing else is said."""

import dataclasses
import json
import math
from typing import Any

from .._errors import UserError
from .finetune import Strategy

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("multistep", "cosine", "onecycle", "constant")
PRECISIONS = ("32", "bf16-mixed", "16-mixed")
DEVICES = ("cpu", "cuda")
_MOST_OF_WARM_UP = 10  # warm-up takes at most one tenth of the steps


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a paper trains.

    Attributes:
        learning_rate: For ``images`` per step; it grows in proportion to the batch (https://arxiv.org/abs/1706.02677).
        images: Per step.
        weight_decay: Of weights; biases and normalisation have none.
        warmup_steps: In which the learning rate grows to its value.
        schedule: Of the learning rate.
    """

    learning_rate: float
    images: int
    weight_decay: float
    warmup_steps: int = 0
    schedule: str = "multistep"


_DETECTORS = {
    "fasterrcnn": Recipe(0.02, 16, 1e-4, 500),  # https://arxiv.org/abs/1612.03144
    "retinanet": Recipe(0.01, 16, 1e-4, 500),  # https://arxiv.org/abs/1708.02002
    "ssd": Recipe(1e-3, 32, 5e-4, 500),  # https://arxiv.org/abs/1512.02325; the warm-up is not the paper's
}
_CLASSIFIER = Recipe(0.1, 256, 1e-4, 500, "cosine")  # https://arxiv.org/abs/1512.03385
_SEGMENTER = Recipe(0.01, 16, 1e-4, 500, "cosine")  # https://arxiv.org/abs/1706.05587
_ADAMW = {"detect": Recipe(1e-4, 16, 0.05), "classify": Recipe(1e-3, 256, 0.05), "segment": Recipe(1e-4, 16, 0.05)}


def recipe(task: str, name: str) -> Recipe:
    """How a model is trained with stochastic gradient descent: by its paper, or as RetinaNet."""
    if task == "detect":
        found = (recipe for family, recipe in _DETECTORS.items() if name.removeprefix("libra_").startswith(family))
        return next(found, _DETECTORS["retinanet"])
    return _CLASSIFIER if task == "classify" else _SEGMENTER


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Everything that decides what a training does; :meth:`for_model` fills in the papers' values.

    Attributes:
        data: Training set, as :func:`detops.data.open` takes it.
        val_data: Where the split "val" is taken from.
        augmentation: Of detection, see :func:`detops.data.transforms.training`.
        image_size: Of the network, see :func:`detops.training.models.size_options`; None: the detector's own.
        num_epochs: Passes over the data.
        batch_size: Images per batch, over all devices.
        accumulate: Batches per step of the optimiser.
        optimizer: "sgd" or "adamw".
        learning_rate: After the warm-up.
        momentum: Of "sgd".
        weight_decay: Of weights; biases and normalisation have none.
        schedule: "multistep" (a tenth after 2/3 and 8/9 of the steps), "cosine", "onecycle" or "constant".
        warmup_steps: In which the learning rate grows from a thousandth; "onecycle" has its own.
        backbone_lr_factor: The backbone's learning rate over that of the rest.
        finetune: See :class:`detops.training.finetune.Strategy`.
        clip_gradients: Largest norm of all gradients; 0: any.
        precision: "32", "bf16-mixed" or "16-mixed".
        ema: Decay of the average of weights that is evaluated and kept; 0: none.
        seed: Of everything random.
        checkpoint_steps: Steps between checkpoints beside those at each epoch's end; 0: none.
        tensorboard: Whether to write TensorBoard's events beside the CSV files.
        strict: Whether a record of the data that cannot be used ends the run.
        num_workers: Processes that read images, for each device.
        device: "cpu" or "cuda".
        devices: How many; torchrun says it itself.
    """

    data: str
    val_data: str
    augmentation: str = "flip"
    image_size: int | None = None
    num_epochs: int = 12
    batch_size: int = 8
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float
    schedule: str = "multistep"
    warmup_steps: int = 0
    backbone_lr_factor: float = 1.0
    finetune: str = "all"
    clip_gradients: float = 0.0
    precision: str = "32"
    ema: float = 0.0
    seed: int = 0
    checkpoint_steps: int = 0
    tensorboard: bool = False
    strict: bool = False
    num_workers: int = 0
    device: str = "cpu"
    devices: int = 1

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "accumulate", "devices"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("weight_decay", "clip_gradients", "backbone_lr_factor"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("warmup_steps", "checkpoint_steps", "num_workers"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "from 0 to below 2^63")
        for name in ("momentum", "ema"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 to below 1")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0")
        _check("image_size", self.image_size, self.image_size is None or self.image_size >= 32, "at least 32")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            _check(name, getattr(self, name), getattr(self, name) in known, f"of {', '.join(known)}")
        Strategy.parse(self.finetune)

    @staticmethod
    def for_model(task: str, name: str, **given: Any) -> "TrainingOptions":
        """Options for a model, the papers' where they are not given.

        Args:
            task: "detect", "classify" or "segment".
            name: Of the detector, or of the other tasks' backbone.
            given: Attributes; None counts as not given.

        Raises:
            UserError: If a value is out of range.
        """
        given = {key: value for key, value in given.items() if value is not None}
        of_task = recipe(task, name)
        rates = of_task if given.get("optimizer", "sgd") == "sgd" else _ADAMW[task]
        images = given.get("batch_size", TrainingOptions.batch_size) * given.get("accumulate", 1)
        defaults = {
            "val_data": given.get("data"),
            "learning_rate": rates.learning_rate * images / rates.images,
            "weight_decay": rates.weight_decay,
            "warmup_steps": of_task.warmup_steps,
            "schedule": of_task.schedule,
        }
        return TrainingOptions(**defaults | given)

    def warmup_of(self, total_steps: int) -> int:
        """Steps of warm-up in a training of so many."""
        return min(self.warmup_steps, total_steps // _MOST_OF_WARM_UP)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "TrainingOptions":
        return TrainingOptions(**json.loads(text))


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UserError(f"train: expected --{name.replace('_', '-')} {expected}, got {value}")
