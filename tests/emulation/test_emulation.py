"""The emulation of CUDA: it runs right kernels right, and finds the mistakes in wrong ones."""

import re
import subprocess

import pytest
import torch
from emulation import build, operators

import detops

RIGHT = [
    "dynamic_memory",
    "histogram",
    "largest",
    "last_block",
    "many_blocks",
    "much_dynamic_memory",
    "no_blocks",
    "order",
    "reduce",
    "scan",
    "shuffles",
    "syncwarp",
    "votes",
]
EVERY = ("plain", "address", "race")
# What is said of each mistake, and the variants that find it. The plain one sees wrong results at best where others
# see the access itself.
WRONG = {
    "divergent_barrier": (EVERY, r"divergent barrier: 40 of 64 threads wait at .*wrong_kernels\.h:\d+"),
    "two_barriers": (EVERY, r"divergent barrier: thread \(0,0,0\) .* is at .*, thread \(40,0,0\)"),
    "divergent_shuffle": (EVERY, r"deadlock: thread \(32,0,0\) .* for lanes of mask ffffffff that do not come"),
    "shuffle_from_outside": (EVERY, r"shuffle: .* reads lane 20, not one of mask 0000ffff"),
    "shared_out_of_bounds": (EVERY, r"shared staged at byte 128 of 128|index 32 out of bounds for type 'int \[32\]'"),
    "dynamic_out_of_bounds": (EVERY, r"shared dynamic memory at byte 252 of 252|AddressSanitizer: use-after-poison"),
    "too_much_shared": (EVERY, "more than 48 KiB of variables with large"),
    "too_much_dynamic_memory": (EVERY, "invalid argument: 233472 bytes of shared memory"),
    "too_many_threads": (EVERY, "invalid configuration argument: 1025 threads in a block"),
    "no_threads": (EVERY, "invalid configuration argument: 0 threads in a block"),
    "too_many_blocks": (EVERY, "too large for one launch"),
    "global_out_of_bounds": (["address"], "AddressSanitizer: heap-buffer-overflow"),
    "misaligned": (["address"], "store to misaligned address .* requires 16 byte alignment"),
    "missing_barrier": (["race"], r"read after write of shared staged|uninitialised: .* reads shared staged"),
    "missing_second_barrier": (
        ["race"],
        r"race: .* of shared staged .* \(wrong_kernels\.h:\d+\) and thread \d+ of the same",
    ),
    "no_syncwarp": (["race"], "race: read after write of shared staged"),
    "uninitialised": (["race"], r"uninitialised: .* reads shared counts at byte 252 of 256"),
    "lost_update": (["race"], "race: .* of global memory"),
    "blocks_collide": (["race"], "race: two writes of global memory .* of another block"),
    "atomic_and_plain": (["race"], "race: .* of global memory .* of the same block"),
    "last_block_without_fence": (["race"], "race: read after write of global memory .* of another block"),
}


def selftest(variant: str, *names: str) -> str:
    """What the program prints for a kernel; without one, the names of all."""
    try:
        program = build.build(variant, "selftest")
    except build.BuildError as error:
        pytest.skip(f"no emulation: {error}")
    # Without the sanitizer that may be loaded into Python: the program has its own.
    command = ["env", "LD_PRELOAD=", str(program), *names]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return run.stdout + run.stderr


@pytest.mark.parametrize("variant", EVERY)
def test_every_kernel_is_listed_here(variant: str) -> None:
    assert sorted(selftest(variant).split()) == sorted([*RIGHT, *WRONG])


@pytest.mark.parametrize("variant", EVERY)
@pytest.mark.parametrize("name", RIGHT)
def test_runs(variant: str, name: str) -> None:
    assert selftest(variant, name).strip() == "ok"


@pytest.mark.parametrize(("variant", "name"), [(variant, name) for name in WRONG for variant in WRONG[name][0]])
def test_finds(variant: str, name: str) -> None:
    _, message = WRONG[name]
    printed = selftest(variant, name)
    assert re.search(message, printed), printed


def test_the_public_functions_run_the_kernels() -> None:
    """And those of the CPU again afterwards, gradients included."""
    names = [name for name in build.operators() if name in operators.load()]
    assert "box_iou" in names

    def operators_called() -> set[str]:
        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]], requires_grad=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            detops.ops.box_iou(boxes, boxes).sum().backward()
        return {event.key for event in profile.key_averages()}

    wanted = {"detops_emulated::box_iou", "detops_emulated::box_iou_backward"}
    assert not wanted & operators_called()
    with operators.emulated():
        assert wanted <= operators_called()
    assert not wanted & operators_called()
