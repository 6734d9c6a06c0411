"""The workloads are what they claim to be, quick cases agree with their peers, and timing does what it says."""

import json
from pathlib import Path

import pytest
import torch

from detops import cli  # noqa: F401  (finds detops.benchmarks in a source tree too)

pytest.importorskip("torchvision", reason="the peer of most cases")

from detops.benchmarks import common, counting, timing, workloads
from detops.benchmarks.annotations import AnnotationError, read_boxes
from detops.benchmarks.common import Case
from detops.benchmarks.timing import Timing
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, nms

CPU = torch.device("cpu")
VOC = """<annotation><size><width>200</width><height>100</height></size>
<object><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30.5</xmax><ymax>60</ymax></bndbox></object>
<object><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object></annotation>"""
COCO = {
    "images": [{"id": 7, "height": 100, "width": 200}, {"id": 8, "height": 50, "width": 50}],
    "annotations": [{"image_id": 7, "bbox": [10, 20, 20.5, 40]}, {"image_id": 7, "bbox": [0, 0, 200, 100]}],
}


@pytest.fixture
def real_boxes(tmp_path):
    """Two objects in the place of the synthetic ones."""
    path = tmp_path / "image.xml"
    path.write_text(VOC)
    workloads.use_boxes(path)
    yield
    workloads.use_boxes(None)


@pytest.mark.parametrize("name", common.modules())
def test_quick_cases_agree(name):
    module = common.modules()[name]
    quick = [case for case in module.cases(CPU, torch.float32) if case.quick]
    assert quick
    for case in quick:
        assert case.op in common.operators(name, module)
        assert case.bytes > 0
        assert common.disagreement(case) == ""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in ("compat", "detectors") else name
        for name in common.modules()
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_quick_cases_agree_in_other_dtypes(name, dtype):
    for case in common.modules()[name].cases(CPU, dtype):
        if case.quick:
            assert common.disagreement(case) == ""


@pytest.mark.parametrize("name", common.modules())
def test_case_names_are_unique(name):
    seen = [(case.op, case.name) for case in common.modules()[name].cases(CPU, torch.float32)]
    assert len(seen) == len(set(seen))


def test_chosen_operators_only():
    chosen = list(common.cases(CPU, torch.float32, ["generalized_box_iou"], quick=True))
    assert {case.op for case in chosen} == {"generalized_box_iou"}
    assert all(case.quick for case in chosen)


def test_case_begins_with_detops():
    with pytest.raises(ValueError, match="expected run to begin with 'detops'"):
        Case("op", "name", {"torchvision": lambda: None}, 1)


def test_agreement_reaches_into_containers():
    ours, theirs = [torch.zeros(2), {"keep": torch.ones(2)}], [torch.zeros(2), {"keep": torch.tensor([1, 1.1])}]
    assert common.disagreement(Case("op", "name", {"detops": lambda: ours, "pytorch": lambda: ours}, 1)) == ""
    assert "pytorch" in common.disagreement(Case("op", "name", {"detops": lambda: ours, "pytorch": lambda: theirs}, 1))


def test_agreement_is_exact_for_integers():
    with pytest.raises(AssertionError):
        common.agree(torch.tensor([1000]), torch.tensor([1001]))


def test_check_without_message_and_exception_are_told():
    def fails(actual, expected):
        raise AssertionError

    def breaks():
        raise RuntimeError("out of\nmemory")

    side = {"detops": lambda: 1, "pytorch": lambda: 1}
    assert common.disagreement(Case("op", "name", side, 1, check=fails)) == "disagrees with pytorch: check failed"
    broken = Case("op", "name", side | {"pytorch": breaks}, 1)
    assert common.disagreement(broken) == "pytorch failed: RuntimeError: out of memory"


def test_anchors_are_torchvision_s():
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, *workloads.IMAGE_SIZE), [workloads.IMAGE_SIZE])
    expected = generator(images, [torch.zeros(1, 1, *size) for size in workloads.PYRAMID])[0]
    assert torch.equal(workloads.anchors_fpn(), expected)


def test_default_boxes_are_torchvision_s():
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    expected = generator(images, [torch.zeros(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)])[0]
    height, width = workloads.IMAGE_SIZE
    stretch = torch.tensor([width, height, width, height]) / 300
    torch.testing.assert_close(workloads.anchors_ssd(), expected * stretch, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "boxes",
    [workloads.boxes_log_uniform(500), workloads.ground_truth(40), workloads.proposals_clustered(500)[0]],
    ids=["log_uniform", "ground_truth", "clustered"],
)
def test_boxes_are_proper_and_inside_the_image(boxes):
    height, width = workloads.IMAGE_SIZE
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height


def test_log_uniform_sizes_are_in_range():
    boxes = workloads.boxes_log_uniform(1000, 20, 80, aspect=3)
    size = boxes[:, 2:] - boxes[:, :2]
    side, aspect = size.prod(1).sqrt(), size[:, 0] / size[:, 1]
    assert side.min() > 19.9
    assert side.max() < 80.1
    assert aspect.min() > 0.33
    assert aspect.max() < 3.01
    assert ((side < 40).float().mean() - 0.5).abs() < 0.05


def test_same_arguments_same_inputs():
    for first, second in zip(workloads.many_classes(3, 20), workloads.many_classes(3, 20), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(workloads.boxes_log_uniform(5, seed=1), workloads.boxes_log_uniform(5, seed=2))


def test_disjoint_boxes_all_survive_and_clustered_ones_do_not():
    assert len(nms(*workloads.boxes_disjoint(2000), 0.0)) == 2000
    boxes, scores = workloads.proposals_clustered(2000)
    assert len(nms(boxes, scores, 0.5)) < 1000
    assert ((scores < 0.3).float().mean() - 0.15).abs() < 0.03  # half of the 30% that are background


def test_many_classes_are_balanced_and_shuffled():
    boxes, scores, labels = workloads.many_classes(4, 25)
    assert boxes.shape == (100, 4)
    assert scores.shape == (100,)
    assert labels.bincount().tolist() == [25] * 4
    assert not torch.equal(labels, labels.sort().values)


def test_maps_and_regions():
    assert workloads.pyramid_level(16, 512).shape == (1, 512, 50, 76)
    assert workloads.pyramid_level(64, 1, images=2).shape[2:] == workloads.PYRAMID[-1]
    rois = workloads.to_rois([torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 2.0)])
    assert rois.tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [2, 2, 2, 2, 2]]


def test_real_boxes_replace_synthetic_ones(real_boxes):
    truth = workloads.ground_truth(5)
    expected = torch.tensor([60.8, 160, 185.44, 480])  # (10, 20, 30.5, 60), 6.08 times as wide, 8 times as high
    torch.testing.assert_close(truth[::2], expected.expand(3, 4))
    boxes, _ = workloads.proposals_clustered(200)
    assert (box_iou(boxes, truth[:2]).amax(1) > 0.3).float().mean() > 0.5


@pytest.mark.parametrize("kind", ["coco", "voc", "folder"])
def test_reads_annotations(tmp_path, kind):
    path = tmp_path / {"coco": "a.json", "voc": "a.xml", "folder": "a.xml"}[kind]
    path.write_text(json.dumps(COCO) if kind == "coco" else VOC)
    (image,) = read_boxes(tmp_path if kind == "folder" else path)
    assert image.boxes.tolist() == [[10, 20, 30.5, 60], [0, 0, 200, 100]]
    assert (image.height, image.width) == (100, 200)


def broken(part, index, **changes):
    """COCO's content with one record changed; a change to None leaves the entry out."""
    content = json.loads(json.dumps(COCO))
    record = content[part][index] | changes
    content[part][index] = {name: value for name, value in record.items() if value is not None}
    return json.dumps(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "not a COCO instances file"),
        ("a.json", '{"images": 1, "annotations": []}', "images: expected a list"),
        ("a.json", broken("images", 1, width=None), r"images\[1\]: no such entry: 'width'"),
        ("a.json", broken("images", 0, height=-1), r"images\[0\]: expected a positive height and width"),
        ("a.json", broken("annotations", 1, bbox=[1, 2, 3]), r"annotations\[1\]: expected .*x, y, width, height"),
        ("a.json", broken("annotations", 1, bbox=[1, 2, -3, 4]), r"annotations\[1\]: expected a box with x1 <= x2"),
        ("a.json", broken("annotations", 0, bbox=[1, 2, float("nan"), 4]), r"annotations\[0\]: expected a box"),
        ("a.json", broken("annotations", 0, image_id=9), r"annotations\[0\]: no image with id 9"),
        ("a.json", json.dumps(COCO | {"annotations": []}), "no boxes"),
        ("a.xml", "<annotation>", "not XML"),
        ("a.xml", "<annotation/>", "size: no <size><height>"),
        ("a.xml", VOC.replace("<ymin>0</ymin>", ""), "object 1: no <bndbox><ymin>"),
        ("a.xml", VOC.replace("30.5", "wide"), "object 0: could not convert"),
        ("a.xml", VOC.replace("30.5", "5"), "object 0: expected a box"),
    ],
)
def test_broken_annotations_name_file_and_record(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(AnnotationError, match=f"{name}: {message}"):
        read_boxes(path)


def test_missing_annotations(tmp_path):
    with pytest.raises(AnnotationError, match="No such file"):
        read_boxes(tmp_path / "none.json")
    with pytest.raises(AnnotationError, match=r"no \.xml file"):
        read_boxes(tmp_path)


@pytest.mark.parametrize("name", ["bccd/BCCD/Annotations", "coco_ccby/instances_a.json"])
def test_reads_published_annotations(name):
    path = Path(__file__).parents[2] / "shared" / "data" / name
    if not path.exists():
        pytest.skip("the data set is not beside this checkout")
    images = read_boxes(path)
    assert len(images) > 10
    assert all((image.boxes[:, 2:] >= image.boxes[:, :2]).all() for image in images)


def test_measure_takes_medians_and_ratios_of_each_round():
    durations = {"a": [9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0], "b": [9.0, 9.0, 2.0, 6.0, 3.0, 8.0, 50.0]}
    functions = {"a": lambda: "a", "b": lambda: "b"}
    order = []

    def timer(function, repeats):
        assert repeats == 1
        order.append(function())
        return durations[function()].pop(0) / 16

    timings, ratios = timing.measure(functions, seconds=0, timer=timer, clock=lambda: 0.0)
    assert timings == {"a": Timing(3 / 16, 2 / 16, 4 / 16, 5, 1), "b": Timing(6 / 16, 3 / 16, 8 / 16, 5, 1)}
    assert ratios == {"b": 2.0}  # of 2, 3, 1, 2, 10
    assert "".join(order[4:]) == "abbaabbaab"


def test_measure_takes_fewer_rounds_of_long_calls():
    called = []

    def timer(function, repeats):
        called.append(function())
        return 7.0

    timings, _ = timing.measure({"a": lambda: "a", "b": lambda: "b"}, 60.0, timer, clock=lambda: 8.0 * len(called))
    assert timings["a"].rounds == 4
    assert "".join(called) == "ab" + "abbaabba"
    called.clear()
    timings, _ = timing.measure({"a": lambda: "a", "b": lambda: "b"}, 0.0, timer)
    assert timings["a"].rounds == 3


def test_measure_repeats_short_calls_and_stops_in_time():
    now = [0.0]

    def timer(function, repeats):
        now[0] += 1e-5 * repeats
        return 1e-5 * repeats

    timings, _ = timing.measure({"a": lambda: None}, 0.1, timer, lambda: now[0])
    assert timings["a"].repeats * 1e-5 >= timing.SAMPLE_SECONDS
    assert timings["a"].median == pytest.approx(1e-5)
    assert timing.MIN_ROUNDS < timings["a"].rounds < timing.MAX_ROUNDS


def test_wall_timer_counts_the_freeing_of_the_result(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    class Result:
        def __del__(self):
            now[0] += 1.0

    assert timing.wall_timer(Result, 3) == 3.0


def test_copy_speed_counts_both_directions():
    assert timing.copy_speed(torch.device("cpu"), lambda function, repeats: 0.5 * repeats, size=1000) == 4000


def test_cold_cuda_timer_overwrites_the_cache_before_each_call(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, end):
            return 4.0  # ms

    class Scratch:
        def zero_(self):
            log.append("cache")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    timer = object.__new__(timing.ColdCudaTimer)
    timer._scratch = Scratch()
    assert timer(lambda: log.append("call"), 2) == pytest.approx(8e-3)
    assert log == ["cache", "event", "call", "event"] * 2


def test_large_cuda_cases_are_timed_cold(monkeypatch):
    assert timing.timer_for(CPU)(1 << 30) is timing.wall_timer
    monkeypatch.setattr(timing, "ColdCudaTimer", lambda device: "cold")
    choose = timing.timer_for(torch.device("cuda"))
    assert [choose(size) for size in (100, timing.COLD_BYTES)] == [timing.cuda_timer, "cold"]


def test_kernels_and_waits_are_counted_by_call(monkeypatch):
    of_call = [
        (False, "cudaLaunchKernel"),
        (True, "void nms_kernel<float>(Args)"),
        (False, "cudaMemsetAsync"),
        (True, "Memset (Device)"),
        (False, "cudaLaunchKernel"),
        (True, "void sort_kernel<float>(Args)"),
        (False, "cudaMemcpyAsync"),
        (True, "Memcpy DtoH (Device -> Pageable)"),
        (False, "cudaStreamSynchronize"),
        (False, "aten::sort"),
    ]
    assert counting.count(of_call) == counting.DeviceWork(kernels=2, waits=1)
    measurement = [(False, "cudaDeviceSynchronize")]
    monkeypatch.setattr(counting, "_events", lambda function, calls: of_call * calls + measurement)
    assert counting.device_work(lambda: None) == counting.DeviceWork(kernels=2, waits=1)
    monkeypatch.setattr(counting, "_events", lambda function, calls: [])
    assert counting.device_work(lambda: None) is None
