"""What is made from weights once and kept between runs: folders by name, bounded, in the user's cache.

``ANYTALK_CACHE_DIR`` names the folder (default: ``anytalk`` in the user's cache), ``ANYTALK_CACHE_GB`` how much it may
hold (default: 20). Everything in it can be made again, so that it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from anytalk.errors import ConfigError
from anytalk.files import write_whole, written_whole

_logger = logging.getLogger(__name__)
_DEFAULT_GB = 20.0


def cache_folder() -> Path:
    """Return where everything is kept; it may not be there yet."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ANYTALK_CACHE_DIR") or caches / "anytalk")


def kept(name: str, make: Callable[[Path], None]) -> Path | None:
    """Find a folder of the cache, made on first use; what was used longest ago goes where the bound is passed.

    Args:
        name: Says all that the content depends on.
        make: Writes the content into a folder that it makes. Two processes never make the same at once.

    Returns:
        The folder; None where the disk is full or the cache can't be written, which costs time and nothing else.

    Raises:
        ConfigError: a bound that is no number.
    """
    place, bound = cache_folder() / name, _bound()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{name}.lock")):
            if not place.is_dir():
                with written_whole(place) as partial:
                    make(partial)
            os.utime(place)
            _shrink(bound, place)
    except OSError as error:
        _logger.warning("nothing is kept in '%s', so loading is slow each time: %s", place.parent, error)
        return None
    return place


def entries() -> list[tuple[Path, int]]:
    """List what is kept, used longest ago first: folder, bytes."""
    root = cache_folder()
    found = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."] if root.is_dir() else []
    return [(path, _size(path)) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def digest_of(paths: Sequence[Path]) -> str:
    """SHA-256 of files read one after the other; kept too, as long as their sizes and times stay the same.

    Raises:
        OSError: a file that can't be read.
    """
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


def _bound() -> int:
    text = os.environ.get("ANYTALK_CACHE_GB") or str(_DEFAULT_GB)
    try:
        return int(float(text) * 10**9)
    except (ValueError, OverflowError):
        raise ConfigError(f"ANYTALK_CACHE_GB is '{text}', not a number", "give gigabytes, e.g. 20") from None


def _shrink(bound: int, spared: Path) -> None:
    found = entries()
    total = sum(num_bytes for _, num_bytes in found)
    for path, num_bytes in found:
        if total > bound and path != spared:
            shutil.rmtree(path, ignore_errors=True)
            total -= num_bytes


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
