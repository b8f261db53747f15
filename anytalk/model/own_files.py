"""Finds and copies files that belong to a talker or a voice besides its weights: those in options, and licences."""

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
    """Return the files and folders that belong to a talker or voice folder.

    Args:
        folder: The talker or voice folder.
        parts: Parts whose options may name files in it.

    Returns:
        The path relative to the folder, and where it is.

    Raises:
        TalkerError: An option names a file outside of the folder by a relative path.
    """
    found = {path.relative_to(folder) for pattern in _LEGAL for path in folder.glob(pattern) if path.is_file()}
    for part in parts:
        for value in part.options.values():
            path = Path(value) if isinstance(value, str) else Path()
            # An option's text counts as a path only if such a file exists.
            if not path.parts or path.is_absolute() or not is_there(folder / path):
                continue
            if ".." in path.parts:
                raise TalkerError(
                    f"'{value}' of '{part.name}' is outside '{folder}' and would be lost if the folder is moved",
                    f"move it into '{folder}'and give its path there",
                )
            found.add(path)
    return {path: folder / path for path in sorted(found)}


def copy_files(files: Mapping[Path, Path], target: Path) -> None:
    """Copy files and folders to the given paths below `target`, without checkpoints and other private files.

    Raises:
        OSError: A file can't be read or written.
    """
    for path, source in files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / path, ignore=NOT_SHARED, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target / path)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn errors of writing the folder `out` into a TalkerError that says why."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise TalkerError(
            f"'{out}' can't be written: {_reason(error)}", "is it writable, and the disk not full?"
        ) from None


def _reason(error: Exception) -> str:
    """Return the reason in one line: an error of copying a folder lists (source, target, reason) of each file."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error)
