"""What is wrong with data: collected and shown at the end, or an error at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from .._errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing wrong.

    Attributes:
        where: The file, and the line or record in it.
        what: What is wrong, and what was done about it.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Problems(Sequence[Problem]):
    """Problems in the order in which they were found, each once.

    Args:
        strict: The first one is an error.

    Attributes:
        num_unreadable: How many are files that could not be read, and their images left out.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict, self.num_unreadable = strict, 0
        self._found: dict[Problem, None] = {}

    def report(self, where: object, what: str) -> None:
        """Notes a problem.

        Raises:
            UserError: If ``strict``.
        """
        self.add(Problem(str(where), what))

    def report_unreadable(self, error: "ReadError", done: str = "left out") -> None:
        """Notes a file that cannot be read, and what was done about it.

        Raises:
            UserError: If ``strict``.
        """
        self.num_unreadable += 1
        self.report(error.problem.where, f"{error.problem.what}; {done}")

    def add(self, problem: Problem) -> None:
        """As :meth:`report`."""
        if self.strict:
            raise UserError(str(problem))
        self._found[problem] = None

    def summary(self, limit: int = 10) -> str:
        """The number of problems and the first ones, one a line; nothing where there are none."""
        if not self._found:
            return ""
        lines = [f"{len(self)} problem{'s' * (len(self) > 1)} in the data:"]
        lines += [f"  {problem}" for problem in self[:limit]]
        if len(self) > limit:
            lines.append(f"  and {len(self) - limit} more")
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        return list(self._found)[index]


class ReadError(UserError):
    """A file of a data set that cannot be read, though it was found when the data set was opened."""

    def __init__(self, where: object, what: str) -> None:
        super().__init__(str(where), what)
        self.problem = Problem(str(where), what)

    def __str__(self) -> str:
        return str(self.problem)
