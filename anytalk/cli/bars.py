"""Draw progress bars if standard error is a terminal."""

from __future__ import annotations

from typing import Self

from rich.progress import Progress, ProgressColumn

from anytalk.cli.render import err


class Bars:
    """Draw progress bars inside a ``with`` block; subclasses print plain lines where there is no terminal.

    Attributes:
        progress: The bars, or None if standard error isn't a terminal.
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
        """Stop drawing; further calls do nothing."""
        if self.progress is not None:
            self.progress.stop()
