"""Where functions run that are in part on kernels, in part in plain PyTorch."""

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def place(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
