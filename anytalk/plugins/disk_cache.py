"""Keeps what was made from weights between runs: named folders of bounded total size in the user's cache.

``ANYTALK_CACHE_DIR`` sets the folder (default: ``anytalk`` in the user's cache), ``ANYTALK_CACHE_GB`` the size limit
(default: 20). Everything in it can be made again, so it may be deleted at any time: ``anytalk cache``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from anytalk.errors import ConfigError
from anytalk.files import flush, write_whole, written_whole

_logger = logging.getLogger(__name__)
_DEFAULT_GB = 20.0
_NOTE = "made-from.txt"
_SETTLED_S = 120
"""Seconds after which a system has written files to the disk by itself, so that forcing them there is quick."""


@dataclass(frozen=True)
class Entry:
    """Describes a folder of the cache."""

    path: Path  # its path
    num_bytes: int  # its size
    used_at: float  # when it was last used, in seconds since 1970
    made_from: str  # the model, as it was named then


def cache_folder() -> Path:
    """Return the cache's folder, which may not exist yet."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ANYTALK_CACHE_DIR") or caches / "anytalk")


def kept(name: str, made_from: str, make: Callable[[Path], None]) -> Path | None:
    """Return a folder of the cache, made on first use; past the size limit, the least recently used ones are deleted.

    Args:
        name: The folder's name, which must include everything that the content depends on.
        made_from: Tells people what it was made from.
        make: Creates the folder that it is given and writes the content. Two processes never do so at once.

    Returns:
        The folder; None if the disk is full or the cache can't be written, which only makes loading slower.

    Raises:
        ConfigError: the size limit isn't a number.
    """
    place, bound = cache_folder() / name, bound_bytes()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be making the same folder; then this one waits and uses it.
        with FileLock(_lock_of(place)):
            if not _is_whole(place):
                shutil.rmtree(place, ignore_errors=True)
                _make(place, made_from, make)
            os.utime(place)  # marks it as used, for `_shrink`
            _shrink(bound, place)
    except OSError as error:
        _logger.warning("nothing can be cached in '%s', so loading stays slow: %s", place.parent, error)
        return None
    return place


def entries() -> list[Entry]:
    """List what the cache holds, least recently used first."""
    root = cache_folder()
    found = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."] if root.is_dir() else []
    listed = [Entry(path, _size(path), path.stat().st_mtime, _made_from(path)) for path in found]
    return sorted(listed, key=lambda entry: entry.used_at)


def clear(name: str | None = None) -> list[Entry]:
    """Delete folders of the cache; a process that has loaded one keeps it until it ends.

    Args:
        name: The beginning of a folder's name, or the model that it was made from; None deletes everything.

    Returns:
        The entries that were deleted.

    Raises:
        ConfigError: nothing has that name, or a folder can't be deleted.
    """
    found = [entry for entry in entries() if name in (None, entry.made_from) or entry.path.name.startswith(name)]
    if name is not None and not found:
        raise ConfigError(f"nothing in the cache is called '{name}'", "`anytalk cache` lists what is there")
    try:
        for entry in found:
            with FileLock(_lock_of(entry.path)):
                shutil.rmtree(entry.path)
                _unforced(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"'{cache_folder()}' can't be cleared: {error}", "is it yours, and writable?") from None
    # Remembered digests aren't entries, and can't be chosen by name.
    for note in cache_folder().glob(".digest-*") if name is None else ():
        with suppress(OSError):
            note.unlink()
    return found


def digest_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of several files read as one; remembered while their sizes and times stay the same.

    Raises:
        OSError: a file that can't be read.
    """
    # Hashing gigabytes takes seconds; size and modification time show whether it is needed.
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    note = cache_folder() / f".digest-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"
    if note.is_file():
        return note.read_text(encoding="utf-8")
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    try:
        write_whole(note, digest.hexdigest())
    except OSError:
        _logger.debug("the digest of '%s' isn't kept", paths[0])
    return digest.hexdigest()


def bound_bytes() -> int:
    """Return the size limit in bytes (ConfigError: it isn't a number)."""
    text = os.environ.get("ANYTALK_CACHE_GB") or str(_DEFAULT_GB)
    try:
        return int(float(text) * 10**9)
    except (ValueError, OverflowError):
        raise ConfigError(f"ANYTALK_CACHE_GB is '{text}', not a number", "give gigabytes, e.g. 20") from None


def _make(place: Path, made_from: str, make: Callable[[Path], None]) -> None:
    """Write a folder without waiting for the disk, which takes longer than anything else for a large one.

    Where the machine stops before it is on the disk, it is made again: a note says during which run of the system it
    was written, until it is forced to the disk by a later use.
    """
    note, run = _unforced(place), _run_of_system()
    if run:
        note.write_text(run, encoding="utf-8")
    with written_whole(place, is_forced=not run) as partial:
        make(partial)
        (partial / _NOTE).write_text(made_from, encoding="utf-8")


def _is_whole(place: Path) -> bool:
    """Return whether a folder is there, and all that was written to it."""
    note = _unforced(place)
    if not place.is_dir() or not note.is_file():
        return place.is_dir()
    if note.read_text(encoding="utf-8") != _run_of_system():
        return False
    if time.time() - note.stat().st_mtime > _SETTLED_S:
        flush(place)
        note.unlink()
    return True


def _run_of_system() -> str:
    """Return what tells this run of the system from others; "" where it doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _unforced(place: Path) -> Path:
    return place.with_name(f".{place.name}.unforced")


def _shrink(bound: int, spared: Path) -> None:
    found = entries()
    total = sum(entry.num_bytes for entry in found)
    for entry in found:
        # The folder that was just asked for stays, however large it is.
        if total > bound and entry.path != spared:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.num_bytes


def _lock_of(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _made_from(place: Path) -> str:
    try:
        return (place / _NOTE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
