"""How far a training has come."""

import dataclasses
import math


@dataclasses.dataclass
class Progress:
    """Counters, all from 0, and the best evaluation.

    Attributes:
        epoch: The one to go on in.
        batch: Of this epoch the next.
        batches: That were trained on, in all epochs.
        step: Of the optimiser, the next.
        evaluated: Whether the epoch before ``epoch`` was evaluated.
        metric: What "best" means.
        best: Its highest value; NaN: none yet.
        best_epoch: The epoch after which it was reached.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    step: int = 0
    evaluated: bool = True
    metric: str = ""
    best: float = math.nan
    best_epoch: int = -1

    def advance(self, batches_per_epoch: int, *, stepped: bool) -> None:
        """Counts a batch."""
        self.batch += 1
        self.batches += 1
        self.step += stepped
        if self.batch == batches_per_epoch:
            self.epoch, self.batch, self.evaluated = self.epoch + 1, 0, False

    def judge(self, metric: str, value: float) -> bool:
        """Takes the number of the epoch that just ended; whether it is the best so far, as the first always is."""
        self.evaluated, self.metric = True, metric
        if self.best_epoch >= 0 and not value > self.best and not math.isnan(self.best):
            return False
        self.best, self.best_epoch = value, self.epoch - 1
        return True
