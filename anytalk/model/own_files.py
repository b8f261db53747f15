"""Files beside the weights that go along when a talker or a voice is copied: what options name, licences, notices."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors

from anytalk.errors import TalkerError
from anytalk.plugins.components import PartRef
from anytalk.plugins.sources import is_there

NOT_SHARED = shutil.ignore_patterns("*.checkpoint*", "*.partial*", "tensorboard")
_LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*")


def own_files(folder: Path, parts: Iterable[PartRef]) -> dict[Path, Path]:
    """Find what belongs to a folder.

    Args:
        folder: A talker's or a voice's.
        parts: Whose options may name files in it.

    Returns:
        Path relative to the folder -> where it lies.

    Raises:
        TalkerError: an option names a file outside by a relative path.
    """
    found = {path.relative_to(folder) for pattern in _LEGAL for path in folder.glob(pattern) if path.is_file()}
    for part in parts:
        for value in part.options.values():
            path = Path(value) if isinstance(value, str) else Path()
            if not path.parts or path.is_absolute() or not is_there(folder / path):
                continue
            if ".." in path.parts:
                raise TalkerError(
                    f"'{value}' of '{part.name}' lies outside '{folder}' and wouldn't be found from elsewhere",
                    f"move it into '{folder}', and name it so there",
                )
            found.add(path)
    return {path: folder / path for path in sorted(found)}


def copy_files(files: Mapping[Path, Path], target: Path) -> None:
    """Copy files and folders to a folder, whose relative paths they are given by; what isn't shared is not copied.

    Raises:
        OSError: a file can't be read or written.
    """
    for path, source in files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / path, ignore=NOT_SHARED, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target / path)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Write a folder (TalkerError: it can't be written)."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise TalkerError(
            f"'{out}' can't be written: {_reason(error)}", "is it writable, and the disk not full?"
        ) from None


def _reason(error: Exception) -> str:
    """Return why, in one line: copying a folder collects (source, target, reason) of each file."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error)
