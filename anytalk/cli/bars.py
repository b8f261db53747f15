"""Progress bars where there is a terminal."""

from __future__ import annotations

from typing import Self

from rich.progress import Progress, ProgressColumn

from anytalk.cli.render import err


class Bars:
    """Draws bars while it is entered, on a terminal only; commands derive from it and say what they do elsewhere.

    Attributes:
        progress: The bars, or None where there is no terminal.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        self._columns = columns
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        if err.is_terminal:
            self.progress = Progress(*self._columns, console=err)
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; more than once does no harm."""
        if self.progress is not None:
            self.progress.stop()
