"""Writes files and folders completely or not at all: to a temporary place, synced to disk, then renamed.

Every package may import this module; it imports none of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory


@contextlib.contextmanager
def written_whole(path: Path, is_forced: bool = True) -> Iterator[Path]:
    """Yield a temporary path with the same name, and move what was written there to `path` when the block ends.

    Whatever is at `path` is replaced in one step, or left alone if the block raises. Parent folders are created. A link
    stays a link, and its target is replaced; a device or a pipe is written to.

    Args:
        path: Where it is to lie.
        is_forced: Whether it is on the disk afterwards. If not, a machine that loses its power soon may keep the name
            and lose the content.

    Raises:
        OSError: the disk is full, or the folder can't be written to.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            with (Path(folder) / path.name).open("rb") as made, path.open("wb") as file:
                shutil.copyfileobj(made, file)
        return
    partial = partial_of(path)
    shutil.rmtree(partial.parent, ignore_errors=True)
    try:
        partial.parent.mkdir(parents=True)
        yield partial
        put_in_place(partial, path, is_forced)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file the way :func:`written_whole` does (OSError: the disk is full or the folder is read-only)."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def partial_of(path: Path) -> Path:
    """Return the temporary path for `path`: inside a hidden sibling folder, under the same name and suffix."""
    # Some writers choose the format by the suffix, so the name itself must not change.
    path = _real(path)
    return path.with_name(f".{path.name}.partial") / path.name


def put_in_place(partial: Path, path: Path, is_forced: bool = True) -> None:
    """Sync a file or folder to disk (or don't), then rename it to `path`, replacing what is there."""
    path, old = _real(path), _old(path)
    if is_forced:
        flush(partial)
    if partial.is_dir() and path.is_dir():
        # A folder can't be renamed over another one. If the process is killed between the renames, `put_back` recovers.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    partial.replace(path)
    if is_forced:
        # The rename itself must reach the disk too, or a crash could undo it.
        _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(path: Path) -> None:
    """Restore a folder that a killed :func:`put_in_place` had already moved aside."""
    if not path.exists() and _old(path).is_dir():
        _old(path).rename(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed writes of `path` left next to it."""
    for left in (partial_of(path).parent, _old(path)):
        shutil.rmtree(left, ignore_errors=True)


def flush(path: Path) -> None:
    """Sync a file, or every file in a folder, to disk (OSError: the disk is full)."""
    if not path.is_dir():
        _sync(path)
    # Walking a file yields nothing.
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(Path(folder) / name)
        _sync(Path(folder))


def _real(path: Path) -> Path:
    """Return where a path leads (OSError: links that lead to each other)."""
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return found


def _old(path: Path) -> Path:
    path = _real(path)
    return path.with_name(f".{path.name}.old")


def _sync(path: Path) -> None:
    """Sync a file to disk, or a folder's list of names where the system allows that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows can't open folders, so there is nothing to sync.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
