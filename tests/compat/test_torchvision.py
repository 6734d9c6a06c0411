"""torchvision while patched: the same results, from kernels of detops, whoever calls; and afterwards as before."""

import functools
import importlib
import io
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reached import RecordOperators, boxes, kernels_of, operators_of, scores
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

torchvision = pytest.importorskip("torchvision", reason="it is torchvision that is patched")
from torchvision.models.detection import rpn  # noqa: E402
from torchvision.ops import nms as imported_before_the_patch  # noqa: E402

from detops.compat.torchvision import is_patched, patch, patching, unpatch  # noqa: E402
from detops.compat.torchvision.functions import FUNCTIONS  # noqa: E402
from detops.compat.torchvision.models import METHODS  # noqa: E402

tv = torchvision.ops

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:`create_unbacked_symint`")


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    unpatch()
    assert not is_patched()


MAPS = scores(2 * 36 * 12 * 14).view(2, 36, 12, 14)
ROIS = [boxes(5), boxes(3, seed=4)]
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "nms": ((boxes(60), scores(60)), {"iou_threshold": 0.4}),
    "batched_nms": ((boxes(60), scores(60), torch.arange(60) % 3, 0.4), {}),
    "box_iou": ((boxes(6),), {"boxes2": boxes(5, seed=3), "fmt": "cxcywh"}),
    "generalized_box_iou": ((boxes(6), boxes(5, seed=3)), {}),
    "distance_box_iou": ((boxes(6), boxes(5, seed=3)), {"eps": 1e-3}),
    "complete_box_iou": ((boxes(6), boxes(5, seed=3), 1e-3), {}),
    "masks_to_boxes": ((scores(4 * 9 * 9).view(4, 9, 9) > 0.9,), {}),
    "roi_align": ((MAPS, ROIS, (3, 2)), {"spatial_scale": 0.1, "aligned": True}),
    "roi_pool": ((MAPS, ROIS), {"output_size": 3, "spatial_scale": 0.1}),
    "ps_roi_align": ((MAPS, ROIS, 3, 0.1), {"sampling_ratio": 2}),
    "ps_roi_pool": ((MAPS, ROIS, 3, 0.1), {}),
    "deform_conv2d": (
        (MAPS, scores(2 * 18 * 10 * 12).view(2, 18, 10, 12), scores(4 * 36 * 9).view(4, 36, 3, 3)),
        {"mask": scores(2 * 9 * 10 * 12).view(2, 9, 10, 12)},
    ),
    "generalized_box_iou_loss": ((boxes(7), boxes(7, seed=3)), {"reduction": "mean"}),
    "distance_box_iou_loss": ((boxes(7), boxes(7, seed=3), "sum"), {}),
    "complete_box_iou_loss": ((boxes(7), boxes(7, seed=3)), {"eps": 1e-3}),
    "remove_small_boxes": ((boxes(60), 20.0), {}),
    "sigmoid_focal_loss": ((scores(30) - 0.5, (scores(30) > 0.5).double()), {"reduction": "sum"}),
}


def test_every_function_has_a_call_here() -> None:
    assert {function.__name__ for function, _ in FUNCTIONS} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_functions_give_the_same(name: str) -> None:
    args, kwargs = CALLS[name]
    function = getattr(tv, name)
    expected = function(*args, **kwargs)
    with patch(), RecordOperators() as record:
        torch.testing.assert_close(function(*args, **kwargs), expected, rtol=1e-9, atol=1e-9)
    assert record.names == {f"detops::{name}"}


@pytest.mark.parametrize("name", ["box_iou", "roi_align", "deform_conv2d", "complete_box_iou_loss"])
def test_gradients_are_the_same(name: str) -> None:
    args, kwargs = CALLS[name]
    leaf = args[0].clone().requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(getattr(tv, name)(leaf, *args[1:], **kwargs).square().sum(), leaf)[0]

    expected = gradient()
    with patch():
        torch.testing.assert_close(gradient(), expected, rtol=1e-8, atol=1e-8)


def test_whoever_holds_a_function_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package_of_others.py").write_text(
        "import functools\n"
        "import torchvision\n"
        "from torchvision.ops import nms\n"
        "from torchvision.ops.boxes import nms as suppress\n"
        "half = functools.partial(nms, iou_threshold=0.5)\n"
        "class Head:\n"
        "    suppress = staticmethod(nms)\n"
        "def closure(f=nms):\n"
        "    return lambda *args: f(*args, 0.5)\n"
        "named = {'nms': torchvision.ops.nms}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    of_others = importlib.import_module("a_package_of_others")
    early = [of_others.suppress, imported_before_the_patch, of_others.named["nms"], of_others.Head.suppress]
    with patch():
        del sys.modules["a_package_of_others"]
        again = importlib.import_module("a_package_of_others")
        for call in [*early, again.nms, torchvision.ops.boxes.nms]:
            assert operators_of(functools.partial(call, boxes(9), scores(9), 0.5)) == {"detops::nms"}
        for call in (of_others.half, of_others.closure(), again.half):
            assert operators_of(functools.partial(call, boxes(9), scores(9))) == {"detops::nms"}
    for call in [*early, again.nms, again.half.func]:
        assert operators_of(functools.partial(call, boxes(9), scores(9), 0.5)) == {"torchvision::nms"}


def test_modules_of_torchvision_run_on_detops() -> None:
    pool, pyramid = tv.RoIAlign(3, 0.1, 2), tv.MultiScaleRoIAlign(["a", "b"], 3, 2)
    convolution, norm = tv.DeformConv2d(36, 4, 3).double(), tv.FrozenBatchNorm2d(36).double()
    norm.running_mean += 0.3
    norm.running_var *= 1.7
    levels = {"a": MAPS, "other": MAPS, "b": MAPS[..., ::2, ::2]}

    def results() -> list[Tensor]:
        pyramid.scales = None
        return [
            pool(MAPS, ROIS),
            pyramid(levels, ROIS, [(96, 112)] * 2),
            convolution(*CALLS["deform_conv2d"][0][:2]),
            norm(MAPS),
        ]

    expected = results()
    with patch(), RecordOperators() as record:
        actual = results()
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert record.names == {"detops::roi_align", "detops::multi_scale_roi_align", "detops::deform_conv2d"}


def test_operators_of_the_dispatcher_run_on_detops() -> None:
    calls = torch.ops.torchvision
    offset = CALLS["deform_conv2d"][0][1]
    weight, bias = scores(4 * 36 * 9).view(4, 36, 3, 3).requires_grad_(), scores(4).requires_grad_()
    mask, none = CALLS["deform_conv2d"][1]["mask"], MAPS.new_zeros(2, 1)
    geometry = (1, 1, 0, 0, 1, 1, 1, 1)
    maps = MAPS.clone().requires_grad_()
    rois = torch.cat([torch.zeros(5, 1), ROIS[0]], dim=1)

    def results() -> list[Tensor]:
        outputs = [
            calls.roi_align(maps, rois, 0.1, 3, 2, 2, False),
            calls.deform_conv2d(maps, weight, offset, mask, bias, *geometry, True),
            calls.deform_conv2d(maps, weight, offset, none, bias, *geometry, False),
        ]
        loss = sum(output.square().sum() for output in outputs)
        gradients = torch.autograd.grad(loss, (maps, weight, bias))
        return [*outputs, *gradients, calls.nms(boxes(60), scores(60), 0.4)]

    expected = results()
    with patch():
        actual, used = results(), kernels_of(results)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)
    names = "nms roi_align roi_align_backward deform_conv2d deform_conv2d_backward"
    assert used == {f"detops::{name}" for name in names.split()}
    assert not kernels_of(results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CALLS)
def test_functions_on_a_gpu(name: str) -> None:
    args, kwargs = tree_map_only(Tensor, Tensor.cuda, CALLS[name])
    function = getattr(tv, name)
    expected = function(*args, **kwargs)
    with patch(), RecordOperators() as record:
        torch.testing.assert_close(function(*args, **kwargs), expected, rtol=1e-7, atol=1e-7)
    assert record.names == {f"detops::{name}"}


@pytest.mark.skipif(
    not hasattr(torch.ops.torchvision, "box_iou_rotated"), reason="this torchvision has no rotated boxes"
)
def test_overlaps_of_rotated_boxes() -> None:
    turned = torch.cat([boxes(6)[:, :2], boxes(6, seed=3)[:, :2].abs() + 3, 90 * scores(6)[:, None]], dim=1)
    for call in (torch.ops.torchvision.box_iou_rotated, functools.partial(tv.box_iou, fmt="cxcywhr")):
        expected = call(turned, turned + 1)
        with patch():
            torch.testing.assert_close(call(turned, turned + 1), expected, rtol=0, atol=1e-5)
            assert kernels_of(lambda call=call: call(turned, turned)) == {"detops::box_iou_rotated"}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_detops_does_not_serve_is_torchvisions() -> None:
    some, others = boxes(5), boxes(5, seed=3)
    logits, classes = scores(6) - 0.5, (scores(6) > 0.5).double()
    quantised = torch.quantize_per_tensor(torch.round(boxes(5).float().clamp(min=0)), 1.0, 0, torch.quint8)
    certain = torch.quantize_per_tensor(scores(5).float(), 0.01, 0, torch.quint8)
    cases: list[Callable[[], Any]] = [
        lambda: tv.nms(quantised, certain, 0.5),
        lambda: tv.generalized_box_iou(some.to("meta"), others.to("meta")).shape,
        lambda: torch.vmap(tv.box_iou)(torch.stack([some, others]), torch.stack([others, some])),
        lambda: torch.func.jvp(tv.generalized_box_iou, (some, others), (others, some)),
        lambda: tv.remove_small_boxes(boxes(6).view(2, 3, 4), 20.0),
        lambda: tv.sigmoid_focal_loss(logits, classes, gamma=-0.5),
    ]
    for case in cases:
        expected = case()
        with patch(), RecordOperators() as record:
            torch.testing.assert_close(case(), expected, rtol=0, atol=0)
        assert not any(name.startswith("detops") for name in record.names)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: tv.box_iou(boxes(3), boxes(3), fmt="yxyx"), ValueError),
        (lambda: tv.sigmoid_focal_loss(scores(3), scores(3), alpha=2.0), ValueError),
        (lambda: tv.generalized_box_iou_loss(boxes(3), boxes(3), reduction="all"), ValueError),
        (lambda: tv.nms(boxes(3)[:, :3], scores(3), 0.5), RuntimeError),
        (lambda: tv.roi_align(MAPS, torch.zeros(3, 3), 2), (AssertionError, RuntimeError)),
        (lambda: tv.nms(boxes(3), scores(3)), TypeError),
        (lambda: tv.nms(boxes(3), scores(3), 0.5, iou=0.5), TypeError),
    ],
)
def test_errors_are_of_the_same_kind(call: Callable[[], Any], error: type[Exception]) -> None:
    for _ in range(2):
        with pytest.raises(error):
            call()
        patch()


# Turned on and off


def _objects() -> dict[str, int]:
    """Every object that a module of torchvision or its classes hold, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "torchvision" or not isinstance(module, types.ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if not key.startswith("_detops_"):
                found[f"{name}.{key}"] = id(value)
                if isinstance(value, type):
                    found |= {f"{name}.{key}.{k}": id(v) for k, v in list(vars(value).items())}
    return found


def _codes() -> list[Any]:
    return [
        (f.__code__, f.__defaults__, f.__kwdefaults__, f.__globals__, dict(vars(f))) for f, _ in (*FUNCTIONS, *METHODS)
    ]


def test_afterwards_everything_is_as_before() -> None:
    objects, codes = _objects(), _codes()
    patch()
    assert _codes() != codes
    assert _objects() == objects  # nobody's reference is touched
    unpatch()
    assert _objects() == objects
    assert _codes() == codes
    assert operators_of(lambda: torch.ops.torchvision.nms(boxes(9), scores(9), 0.5)) == {"torchvision::nms"}


def _runs_on_detops() -> bool:
    return operators_of(lambda: imported_before_the_patch(boxes(9), scores(9), 0.5)) == {"detops::nms"}


def test_patching_twice_is_patching_once() -> None:
    patch()
    patch()
    assert is_patched() and _runs_on_detops()
    unpatch()
    assert not is_patched() and not _runs_on_detops()
    unpatch()
    assert not is_patched()


def test_blocks_nest_within_what_lasts() -> None:
    with patch():
        with patch():
            assert _runs_on_detops()
        assert _runs_on_detops()
    assert not _runs_on_detops()
    patch()
    with patch():
        pass
    assert _runs_on_detops()


def test_unpatching_leaves_open_blocks_alone() -> None:
    with patch():
        patch()
        unpatch()
        assert _runs_on_detops()
    assert not _runs_on_detops()


def test_an_error_ends_a_block() -> None:
    with pytest.raises(KeyError), patch():
        raise KeyError("of the user")
    assert not is_patched() and not _runs_on_detops()


def test_blocks_of_threads_overlap() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with patch():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with patch():
        thread.start()
        inside.wait(10)
    assert _runs_on_detops()
    leave.set()
    thread.join()
    assert not _runs_on_detops()


def test_a_patch_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = _codes()
    monkeypatch.setattr(patching._CHANGES[-1], "start", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        patch()
    assert not is_patched()
    assert _codes() == codes


def test_functions_and_models_pickle() -> None:
    model = rpn.RegionProposalNetwork(None, None, 0.7, 0.3, 8, 0.5, {}, {}, 0.7)
    with patch():
        assert pickle.loads(pickle.dumps(tv.nms)) is imported_before_the_patch
        copy = pickle.loads(pickle.dumps(model))
    assert copy.box_similarity is tv.box_iou


# Compiled, scripted, traced


@pytest.mark.slow
def test_compiled_code_follows_the_patch() -> None:
    def detect(b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        keep = imported_before_the_patch(b, s, 0.4)
        return keep, tv.generalized_box_iou(b, b)

    torch.compiler.reset()
    compiled = torch.compile(detect, fullgraph=True, backend="aot_eager")
    arguments = boxes(40), scores(40)
    expected = compiled(*arguments)
    assert not kernels_of(lambda: compiled(*arguments))
    with patch():
        torch.testing.assert_close(compiled(*arguments), expected, rtol=1e-9, atol=1e-9)
        assert kernels_of(lambda: compiled(*arguments)) == {"detops::nms", "detops::generalized_box_iou"}
        program = torch.export.export(_Module(detect), arguments, strict=False)
    assert "detops.nms" in str(program.graph)
    torch.testing.assert_close(compiled(*arguments), expected, rtol=0, atol=0)
    assert not kernels_of(lambda: compiled(*arguments))


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def _pool_and_suppress(maps: Tensor, rois: list[Tensor], s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pooled = tv.roi_align(maps, rois, [3, 3], 0.1, 2)
    return pooled, tv.nms(rois[0], s, 0.4), tv.box_iou(rois[0], rois[0])


def test_torchscript_runs_on_detops() -> None:
    arguments = MAPS, ROIS, scores(5)
    scripted, file = torch.jit.script(_pool_and_suppress), io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    expected = scripted(*arguments)
    for program in (scripted, torch.jit.load(file)):
        with patch():
            torch.testing.assert_close(program(*arguments), expected, rtol=1e-9, atol=1e-9)
            assert kernels_of(lambda p=program: p(*arguments)) == {"detops::roi_align", "detops::nms"}
        assert not kernels_of(lambda p=program: p(*arguments))


def test_torchscript_compiles_the_original() -> None:
    with patch():
        loss = torch.jit.script(tv.distance_box_iou_loss)
        pyramid = torch.jit.script(tv.MultiScaleRoIAlign(["a", "b"], 3, 2))
    arguments = {"a": MAPS, "b": MAPS[..., ::2, ::2]}, ROIS, [(96, 112), (96, 112)]
    expected = tv.MultiScaleRoIAlign(["a", "b"], 3, 2)(*arguments)
    torch.testing.assert_close(pyramid(*arguments), expected, rtol=0, atol=0)
    assert "detops" not in str(loss.inlined_graph) + str(pyramid.inlined_graph)
    torch.testing.assert_close(loss(boxes(7), boxes(7, seed=3)), tv.distance_box_iou_loss(boxes(7), boxes(7, seed=3)))


def test_traces_name_the_operators_of_torchvision() -> None:
    with patch():
        traced = torch.jit.trace(lambda b, s: tv.nms(b, s, 0.4), (boxes(40), scores(40)))
    assert "torchvision::nms" in str(traced.graph) and "detops" not in str(traced.graph)
    graph = torch.fx.symbolic_trace(tv.RoIAlign(3, 0.1, 2))
    with patch():
        assert operators_of(lambda: graph(MAPS, ROIS)) == {"detops::roi_align"}
        patched_graph = torch.fx.symbolic_trace(tv.RoIAlign(3, 0.1, 2))
    torch.testing.assert_close(patched_graph(MAPS, ROIS), graph(MAPS, ROIS), rtol=0, atol=0)


# Where the packages are


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)


def test_detops_alone_does_not_import_torchvision() -> None:
    assert _run("import sys, detops; assert 'torchvision' not in sys.modules").returncode == 0


def test_without_torchvision_it_says_what_to_install() -> None:
    result = _run("import sys; sys.modules['torchvision'] = None; import detops.compat.torchvision")
    assert result.stderr.splitlines()[-1].startswith("ImportError: ")
    assert 'pip install "detops[detectors]"' in result.stderr
