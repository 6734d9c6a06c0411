"""The pages: commands that exist, links that lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from detops import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "benchmarks/results/**/*.md", "detops/**/*.md")
    for path in ROOT.glob(pattern)
)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each ``detops ...`` in a page's blocks of shell."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"\n|&&", block.replace("\\\n", " "))]
    words = [shlex.split(line, comments=True) for line in lines]
    return [arguments for name, *arguments in filter(None, words) if name == "detops"]


def test_commands_are_found() -> None:
    found = commands(Path("README.md"))
    assert ["bench", "--quick"] in found
    assert {arguments[0] for arguments in found} >= {"bench", "train", "evaluate", "predict"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_can_be_read(page: Path) -> None:
    for arguments in commands(page):
        cli._parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (ROOT / page.parent / link).exists()]
    assert not missing
