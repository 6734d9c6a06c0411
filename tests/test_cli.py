"""The command line: what is measured, shown, written, compared and refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import detops
from detops import cli

pytest.importorskip("torchvision", reason="the peer of detops bench")

from detops.benchmarks import common, page, results, table, timing
from detops.benchmarks.common import Case
from detops.benchmarks.counting import DeviceWork
from detops.benchmarks.results import Results, Row
from detops.benchmarks.timing import Timing


def interrupted():
    raise KeyboardInterrupt


def fake_cases(device, dtype):
    """Five cases that take no time: a series of two, a plain one, one with two peers, one without any."""
    x = torch.arange(8, dtype=dtype, device=device)
    for n in (4, 8):
        run = {"detops": lambda n=n: x[:n] * 2, "torchvision": lambda n=n: x[:n] + x[:n]}
        yield Case("double", f"n={n}", run, 2 * n * x.itemsize, quick=n == 4, series="vectors", size=n)
    three = {"detops": lambda: x * x, "pytorch": lambda: x**2, "pytorch, pow": lambda: torch.pow(x, 2)}
    yield Case("square", "<8 & more>", three, 64, quick=True, note="a note")
    yield Case("square", "alone", {"detops": lambda: x.square()}, 64)


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs ``detops bench`` on the fake cases; gives its status, stdout and stderr."""
    module = SimpleNamespace(cases=fake_cases, OPERATORS=("double", "square", "wrong", "stopped"))
    monkeypatch.setattr(common, "modules", lambda: {"fake": module})
    monkeypatch.setattr(timing, "copy_speed", lambda device: 10e9)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)

    def run(*arguments, extra=()):
        module.cases = lambda device, dtype: [*fake_cases(device, dtype), *extra]
        status = cli.main(["bench", "--seconds", "0", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


WRONG = Case("wrong", "one", {"detops": lambda: torch.ones(2), "torchvision": lambda: torch.zeros(2)}, 8)
STOPPED = Case("stopped", "one", {"detops": interrupted}, 8)


def test_table_and_status(bench):
    status, out, err = bench()
    assert (status, err) == (0, "")
    assert re.search(r"double .*n=4", out)
    assert "pytorch, pow" in out
    assert "a note" in out
    assert "Copy speed (read + write): 10.0 GB/s" in out


def test_quick_and_chosen_operators(bench):
    _, out, _ = bench("--quick", "double")
    assert "n=4" in out
    assert "n=8" not in out
    assert "square" not in out


def test_disagreement_is_shown_and_fails(bench):
    status, out, _ = bench("wrong", extra=[WRONG])
    assert status == 1
    assert "disagrees with torchvision" in " ".join(out.split())
    assert "FAILED: 1 of 1" in out


def test_a_slower_case_is_marked():
    rows = [Row("op", "a", 1, 8, {"detops": TIMING, "torchvision": TIMING}, {"torchvision": 0.5})]
    run = Results(SETTINGS, {}, {}, {1: 1e9}, rows)
    assert "! 0.50×" in table.plain(table.cases_table(run))
    assert any("slower than the peer" in note for note in table.notes(run))
    assert 'class="number slower"' in page.render(run)


def test_interrupt_keeps_what_is_done(bench, tmp_path):
    status, out, err = bench("--save", tmp_path / "r.json", "--html", tmp_path / "r.html", extra=[STOPPED])
    assert status == 130
    assert err == "detops: interrupted after 4 measurements\n"
    assert "n=8" in out
    assert len(Results.load(tmp_path / "r.json").rows) == 4
    assert (tmp_path / "r.html").exists()


def test_saved_results_come_back(bench, tmp_path):
    path = tmp_path / "r.json"
    bench("--threads", "1", "--save", path)
    loaded = Results.load(path)
    again = tmp_path / "again.json"
    loaded.save(again)
    assert json.loads(path.read_text()) == json.loads(again.read_text())
    assert [row.case for row in loaded.rows] == ["n=4", "n=8", "<8 & more>", "alone"]
    assert loaded.rows[0].ours.rounds == timing.MIN_ROUNDS
    assert loaded.settings["dtype"] == "float32"
    assert loaded.versions["torch"] == torch.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json", "r.json"]


def test_saved_results_do_not_name_the_machine(bench, tmp_path):
    import platform

    bench("--save", tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert platform.node() not in text
    assert str(tmp_path) not in text


def test_load_shows_without_running(bench, tmp_path):
    _, shown, _ = bench("--save", tmp_path / "r.json")
    status, loaded, _ = bench("--load", tmp_path / "r.json", extra=[STOPPED])
    assert (status, loaded) == (0, shown)


def test_compare(bench, tmp_path):
    path = tmp_path / "before.json"
    bench("--save", path)
    before = Results.load(path)
    before.versions["torch"] = "2.0"
    before.rows = [row for row in before.rows if row.case != "alone"]
    before.save(path)
    _, out, _ = bench("--compare", path, "--html", tmp_path / "r.html")
    assert "change" in out
    assert re.search(r"alone .* new ", out)
    assert f"torch: 2.0 before, {torch.__version__} now" in out
    assert "torch: 2.0 before" in (tmp_path / "r.html").read_text()


TIMING = Timing(2.0, 1.9, 2.1, 5, 1)
SETTINGS = {"device": "cpu", "dtype": "float32", "date": "2026-01-01"}


def test_change_is_relative_to_the_time_before():
    def run(median, **settings):
        return Results(SETTINGS | settings, {}, {}, {}, [Row("op", "a", 1, 1, {"detops": Timing(median, 1, 1, 5, 1)})])

    assert results.changes(run(3.0), run(2.0)) == {("op", "a", 1): 0.5}
    assert results.changes(run(3.0), run(2.0, dtype="float16")) == {}
    assert results.differences(run(1.0), run(1.0, dtype="float16")) == ["dtype: float16 before, float32 now"]


def test_markdown(bench):
    _, out, _ = bench("--markdown")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5 + 2 + 2
    assert len({line.count("|") for line in lines[:7]}) == 1


def test_cuda_rows_show_kernels_and_waits(tmp_path):
    work = {"detops": DeviceWork(kernels=2, waits=0), "torchvision": None}
    rows = [Row("op", "a", 1, 8, {"detops": TIMING, "torchvision": TIMING}, {"torchvision": 1.0}, work=work)]
    Results(SETTINGS, {}, {}, {1: 1e9}, rows).save(tmp_path / "cuda.json")
    results = Results.load(tmp_path / "cuda.json")
    assert results.rows == rows
    headings, lines = table.cases_table(results, {})
    assert headings[-3:] == ["kernels", "waits", "change"]
    assert lines[0][-3:-1] == ["2 : ?", "0 : ?"]
    assert any("Kernels, waits" in note for note in table.notes(results))


def test_plain_table_without_rich(bench, monkeypatch):
    monkeypatch.setattr(table, "_has_rich", lambda: False)
    _, out, _ = bench()
    assert out.startswith("| operator")
    assert table.HINT in out


def test_page_is_self_contained_and_escaped(bench, tmp_path):
    path = tmp_path / "r.html"
    assert bench("--html", path)[0] == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 4  # overview, series, two operators
    assert "&lt;8 &amp; more&gt;" in text
    assert "<8" not in text
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", outside)


def test_page_compares_threads_and_survives_failures():
    rows = [Row("op", "a", n, 8, {"detops": TIMING, "torchvision": TIMING}, {"torchvision": 1.0}) for n in (1, 2)]
    text = page.render(Results(SETTINGS, {}, {}, {1: 1e9, 2: 2e9}, rows))
    assert "With 2 threads instead of 1" in text
    failed = page.render(Results(SETTINGS, {}, {}, {}, [Row("op", "a", 1, 8, error="disagrees")]))
    assert "1 failed" in failed


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.4e-7, "0.34 µs"), (0.000342, "342 µs"), (0.0342, "34.2 ms"), (9.999, "10.0 s"), (1e4, "10,000 s")],
)
def test_times_are_readable(value, text):
    assert table.seconds(value) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a command|arguments are required"),
        (["fly"], "invalid choice: 'fly'"),
        (["bench", "fly"], "bench: unknown operator 'fly', expected some of .*box_iou"),
        (["bench", "--dtype", "int8"], "bench: argument --dtype: invalid choice: 'int8'"),
        (["bench", "--device", "tpu"], "bench: argument --device: invalid choice: 'tpu'"),
        (["bench", "--threads", "0"], "bench: argument --threads: expected numbers above zero"),
        (["bench", "--threads", "two"], "bench: argument --threads: expected numbers above zero"),
        (["bench", "--threads", "99999"], "bench: --threads 99999: this machine has"),
        (["bench", "--seconds", "nan"], "bench: argument --seconds: expected seconds, got 'nan'"),
        (["bench", "--boxes", "none.json"], "none.json: No such file"),
        (["bench", "--boxes", "broken.json"], "broken.json: not JSON"),
        (["bench", "--compare", "none.json"], "none.json: No such file"),
        (["bench", "--compare", "broken.json"], "broken.json: not JSON"),
        (["bench", "--compare", "other.json"], "other.json: not a results file"),
        (["bench", "--load", "partial.json"], "partial.json: not a results file"),
        (["bench", "nms", "--load", "partial.json"], "bench: --load shows a whole run"),
        (["bench", "--save", "none/r.json"], "none/r.json: cannot be written: No such file"),
        (["bench", "--html", "."], r"\.: is a folder"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    Path("other.json").write_text("{}")
    Path("partial.json").write_text('{"format": 1, "rows": [{}], "copy_speed": {}}')
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"detops: .*({message}).*\n", err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device(capsys):
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "no usable CUDA device" in capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert detops.__version__ in out
    assert re.search(r"box_iou +cpu", out)
    assert re.search(r"instruction sets .*active: (baseline|avx2|avx512)", out)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"detops {detops.__version__}\n"


@pytest.mark.slow
def test_the_command_itself(tmp_path):
    command = [
        sys.executable,
        "-P",  # not the source tree that the tests may be run from
        "-m",
        "detops.cli",
        "bench",
        "generalized_box_iou",
        "--quick",
        "--seconds",
        "0",
        "--save",
    ]
    environment = {"PYTHONPATH": str(Path(detops.__file__).parents[1]), "PATH": ""}
    done = subprocess.run([*command, tmp_path / "r.json"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "generalized_box_iou" in done.stdout
    assert Results.load(tmp_path / "r.json").rows


def test_import_is_light():
    code = (
        "import sys, detops; print(*[m for m in ('rich', 'torchvision', 'argparse', 'detops.cli') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": str(Path(detops.__file__).parents[1]), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "rich" not in done.stdout
    assert "torchvision" not in done.stdout
    assert "detops.cli" not in done.stdout


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    def refused(options):
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("detops._info.main", refused)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == "detops: results.json: No space left on device\n"


def test_ends_when_nobody_reads_on():
    environment = {"PYTHONPATH": str(Path(detops.__file__).parents[1]), "PATH": ""}
    command = [sys.executable, "-P", "-m", "detops.cli", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141  # of SIGPIPE, as the shell has it
