"""Two processes train as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from rectangles import read_csv
from train_rectangles import train

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(TESTS / "train_rectangles.py"), str(two), "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 2/2") == 1  # rank 0 alone speaks

    train(one)
    steps, expected = read_csv(two / "steps.csv"), read_csv(one / "steps.csv")
    assert len(steps) == len(expected) == 2
    for step, wanted in zip(steps, expected, strict=True):
        assert {k: float(v) for k, v in step.items()} == pytest.approx(
            {k: float(v) for k, v in wanted.items()}, rel=1e-4
        )
    for epoch in read_csv(two / "epochs.csv"):
        assert epoch["images"] == epoch["different"] == "3"
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
