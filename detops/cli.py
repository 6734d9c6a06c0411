"""The command ``detops``."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import detops

from ._errors import UserError
from .commands import arguments as model_commands
from .commands.train_arguments import add_train

if importlib.util.find_spec("detops.benchmarks") is None:  # a source tree built in place: the folder beside this one
    detops.__path__.append(str(Path(__file__).parents[1]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 1 if a check failed; 2 after a mistake in the arguments or files, or where the system
        refuses one; 130 after Ctrl-C, 141 if nobody reads what is printed, as the shell has it.
    """
    if sys.stdout is None:  # closed by who started this
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        options = _parser().parse_args(arguments)
        command = importlib.import_module(options.module)
        status: int = command.main(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"detops: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:  # a full disk, a folder in place of a file
        where = error.filename2 or error.filename
        print(f"detops: {f'{where}: ' if where else ''}{error.strerror or error}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('detops').strip()}: {message}".removeprefix(": "))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("detops", description="Operators for object detection.")
    parser.add_argument("--version", action="version", version=f"detops {detops.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="versions, build, devices and active kernels")
    info.set_defaults(module="detops._info")

    add_train(commands)
    model_commands.add_evaluate(commands)
    model_commands.add_predict(commands)
    model_commands.add_convert(commands)

    bench = commands.add_parser(
        "bench",
        help="check every kernel against its peers and time it",
        description="Checks each operator against torchvision (or plain PyTorch), then times both, interleaved.",
    )
    bench.set_defaults(module="detops.benchmarks.command")
    bench.add_argument("ops", nargs="*", metavar="OP", help="operators to run; all by default")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    bench.add_argument("--dtype", choices=("float32", "float64", "float16", "bfloat16"), default="float32")
    bench.add_argument("--threads", type=_counts, default=(1,), metavar="N,…", help="numbers of threads (1)")
    bench.add_argument("--quick", action="store_true", help="a few small cases per operator, in some two minutes")
    bench.add_argument(
        "--boxes", metavar="FILE", help="real objects: COCO instances .json, VOC .xml or a folder of these"
    )
    bench.add_argument("--seconds", type=_seconds, metavar="S", help="time per case (1; 0.3 with --quick)")
    bench.add_argument(
        "--keep-heap",
        action="store_true",
        help="restart with a heap that keeps freed memory, so that the system's fresh pages are not timed (glibc)",
    )
    bench.add_argument("--load", metavar="FILE", help="show the results saved in a file instead of running")
    bench.add_argument("--save", metavar="FILE", help="write the results as JSON")
    bench.add_argument("--compare", metavar="FILE", help="show the change since a saved run")
    bench.add_argument("--html", metavar="FILE", help="write a page with plots")
    bench.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers above zero such as 1,2, got {text!r}")
    return counts


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
