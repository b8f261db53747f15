"""Writes files and folders whole or not at all: beside their place, forced to the disk, then renamed.

Every room may import this module; it imports none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place of the same name to write a file or a folder to, and move it to `path` when the block ends.

    What lies at `path` is replaced at once, and stays as it is when the block raises. Folders above it are made.

    Raises:
        OSError: the disk is full, or the place can't be written.
    """
    partial = partial_of(path)
    shutil.rmtree(partial.parent, ignore_errors=True)
    try:
        partial.parent.mkdir(parents=True)
        yield partial
        put_in_place(partial, path)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file as :func:`written_whole` does (OSError: the disk is full, or the place can't be written)."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def partial_of(path: Path) -> Path:
    """Return where `path` is written to: under its own name, which may tell a format, in a hidden folder beside it."""
    path = path.absolute()
    return path.with_name(f".{path.name}.partial") / path.name


def put_in_place(partial: Path, path: Path) -> None:
    """Force a file or folder to the disk and give it its name, in place of what has it now."""
    path, old = path.absolute(), _old(path)
    flush(partial)
    if partial.is_dir() and path.is_dir():
        # A folder can't be renamed over another one. A kill between the two renames loses nothing: see `put_back`.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    partial.replace(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(path: Path) -> None:
    """Give a folder its name back that a kill took while it was being replaced."""
    if not path.exists() and _old(path).is_dir():
        _old(path).rename(path)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writes of `path` left beside it."""
    for left in (partial_of(path).parent, _old(path)):
        shutil.rmtree(left, ignore_errors=True)


def flush(path: Path) -> None:
    """Force a file, or all files of a folder, to the disk (OSError: the disk is full)."""
    if not path.is_dir():
        _sync(path)
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(Path(folder) / name)
        _sync(Path(folder))


def _old(path: Path) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}.old")


def _sync(path: Path) -> None:
    """Force a file to the disk, or a folder's list of names where the system can do that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
