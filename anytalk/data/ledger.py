"""Read and write the files that describe a prepared folder: ``prepared.yaml`` (settings), ``ledger.jsonl`` (shards).

Both can be read from a folder or from an address that fsspec opens. A shard counts once the ledger has its line; a last
line that a crash cut short is ignored. Doesn't import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import Field

from anytalk.data.config import SourceConfig, VoiceConfig
from anytalk.errors import DataError
from anytalk.files import write_whole
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.settings import validated

PREPARED_FILE = "prepared.yaml"
LEDGER_FILE = "ledger.jsonl"
REJECTED_FILE = "rejected.jsonl"
CACHE_FOLDER = ".cache"
"""Folder inside a source's folder with the Arrow copy that feeds map into memory."""

FORMAT_VERSION = 1
_DIGEST_BYTES = 1 << 20  # read at each end of a source's file for the digest of its ends
_WHOLE = "all-"
"""What digests begin with that were made of a whole file; others of its ends only, by versions before."""
_WHOLE_BYTES = 4 << 30
"""Of larger files, only the ends are read."""


class EncoderInfo(Options):
    """Identifies the speech encoder that made the features."""

    name: str = Field(description="Plugin name.")
    fingerprint: str = Field(description="Digest of the weights.")
    width: int = Field(description="E.")
    sample_rate_hz: int = Field(description="Rate of the sound that is kept.")


class CodecInfo(Options):
    """Identifies the codec that made the answers' codes."""

    # Older files also hold the token format, which follows from the other fields.
    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    name: str = Field(description="Plugin name.")
    fingerprint: str = Field(description="Digest of the weights that decide the codes.")
    num_streams: int = Field(description="Codes per frame.")
    codebook_size: int = Field(description="Codes per codebook.")
    frame_rate_hz: float = Field(description="Frames per second.")


class Settings(Options):
    """Holds everything that decides how a row is encoded; all rows of a folder share one Settings."""

    encoder: EncoderInfo | None = Field(
        None, description="Speech encoder; null for a talker without hearing or with `ears`."
    )
    codec: CodecInfo = Field(description="Codec of the voice.")
    speakers: list[str] = Field(default_factory=list, description="Voices that the talker has an embedding for.")
    features: bool = Field(True, description="Encoder features of spoken questions are kept.")
    half: bool = Field(False, description="Features are float16.")
    bf16: bool = Field(False, description="The encoder ran under bfloat16.")
    sound: bool = Field(False, description="The sound of spoken questions is kept (FLAC, 16 bit).")
    rows_per_shard: int = Field(512, gt=0, description="Rows of the source that are read for one shard.")
    voice: VoiceConfig | None = Field(None, description="Who reads aloud what has no sound.")
    augment: list[PartRef] = Field(default_factory=list, description="Augmentations of the spoken questions.")
    seed: int = Field(0, description="Seed of everything drawn by chance.")


class PreparedSource(Options):
    """Describes one source and its folder."""

    slug: str = Field(description="Name of its folder.")
    digest: str | None = Field(None, description="Digest of its file; null for folders and hub ids.")
    config: SourceConfig = Field(description="The source as in data.yaml.")


class Prepared(Options):
    """Describes a prepared folder: the content of ``prepared.yaml``."""

    format_version: int = Field(FORMAT_VERSION, description="Version of this format.")
    library_version: str = Field(description="anytalk that made the folder.")
    talker: str = Field(description="Talker folder whose encoder and codec were used.")
    rows_per_group: int = Field(gt=0, description="Rows of a parquet row group.")
    settings: Settings = Field(description="What decides what a row becomes.")
    sources: list[PreparedSource] = Field(description="Sources, in the order of data.yaml.")


class ShardRecord(Options):
    """Describes a finished shard: one line of the ledger."""

    source: str = Field(description="Folder of its source.")
    number: int = Field(ge=0, description="Its place among the source's shards.")
    first_row: int = Field(ge=0, description="Number of its first row in the source.")
    rows: int = Field(ge=0, description="Rows read.")
    kept: int = Field(ge=0, description="Rows it holds.")
    rejected: dict[str, int] = Field(default_factory=dict, description="Rows left out, by kind of reason.")
    question_s: float = Field(0.0, description="Spoken questions, all together.")
    answer_s: float = Field(0.0, description="Spoken answers, all together.")
    voices: dict[str, int] = Field(default_factory=dict, description="Rows by answering voice.")
    tasks: list[tuple[str, int]] = Field(
        default_factory=list, description="Runs of rows that serve the same tasks: names with spaces, length."
    )
    num_bytes: int = Field(0, description="Size of the file.")
    seconds: float | None = Field(None, description="Time it took; null when a crash lost the figure.")

    @property
    def file(self) -> str:
        return shard_file(self.source, self.number)


def shard_file(slug: str, number: int) -> str:
    """Return the path of a shard in its folder: ``"books/00003.parquet"``."""
    return f"{slug}/{number:05d}.parquet"


def check_shard(folder: Path, record: ShardRecord) -> Path:
    """Return the path of a shard; DataError if the file is missing or has another size than in the ledger."""
    path = folder / record.file
    if not path.is_file():
        raise DataError(
            f"shard '{path}' is in the ledger, but its file is missing", "copy it again, or prepare into a new folder"
        )
    if record.num_bytes and path.stat().st_size != record.num_bytes:
        raise DataError(
            f"shard '{path}' has {path.stat().st_size} bytes instead of {record.num_bytes}",
            "copy it again, or prepare into a new folder",
        )
    return path


@dataclass
class Ledger:
    """Holds the finished shards and sources of a prepared folder."""

    shards: dict[tuple[str, int], ShardRecord] = field(default_factory=dict)  # by the source's folder and number
    complete: dict[str, int] = field(default_factory=dict)  # number of rows of each source that was read to its end

    def of(self, slug: str) -> list[ShardRecord]:
        return [self.shards[key] for key in sorted(self.shards) if key[0] == slug]


def parse_ledger(data: bytes, name: str) -> tuple[Ledger, int]:
    """Parse a ledger.

    Returns:
        The ledger, and how many bytes are whole lines.

    Raises:
        DataError: a damaged line that isn't the last.
    """
    ledger, good = Ledger(), 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            # A crash cut the last line short.
            break
        try:
            entry = json.loads(line)
            if "complete" in entry:
                ledger.complete[str(entry["complete"])] = int(entry["rows"])
            else:
                record = ShardRecord.model_validate(entry)
                ledger.shards[record.source, record.number] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"'{name}' is damaged at line {number}: {' '.join(str(error).split())[:200]}",
                "remove that line and run `anytalk prepare` again",
            ) from None
        good += len(line)
    return ledger, good


class LedgerFile:
    """Appends to ``ledger.jsonl``, after cutting off a last line that a crash left incomplete."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_FILE
        data = self._path.read_bytes() if self._path.is_file() else b""
        self.ledger, good = parse_ledger(data, str(self._path))
        if good < len(data):
            os.truncate(self._path, good)

    def add(self, record: ShardRecord) -> None:
        self._append(record.model_dump(mode="json"))
        self.ledger.shards[record.source, record.number] = record

    def finish(self, slug: str, rows: int) -> None:
        self._append({"complete": slug, "rows": rows})
        self.ledger.complete[slug] = rows

    def _append(self, entry: dict[str, Any]) -> None:
        before = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("ab") as file:
                file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())  # a shard counts once its line is on disk
        except BaseException:
            # Half a line in the middle would make the ledger unreadable.
            with contextlib.suppress(OSError):
                os.truncate(self._path, before)
            raise


def is_remote(spec: str) -> bool:
    """Return whether `spec` is an address instead of a path."""
    return "://" in spec


def is_prepared(spec: str | Path) -> bool:
    """Return whether `spec` can be a prepared folder: a folder or an address, whose content is checked on opening."""
    spec = str(spec)
    return is_remote(spec) or Path(spec).is_dir()


def read_bytes(spec: str, name: str) -> bytes | None:
    """Read a small file of a prepared folder; None if it doesn't exist, DataError if an address can't be read."""
    if not is_remote(spec):
        path = Path(spec) / name
        return path.read_bytes() if path.is_file() else None
    fs, root = open_address(spec)
    try:
        data: bytes = fs.cat_file(f"{root}/{name}")
        return data
    except FileNotFoundError:
        return None
    except Exception as error:  # each filesystem has its own errors
        raise DataError(
            f"'{spec}' can't be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "check the address, the network and the credentials",
        ) from None


def open_address(spec: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of an address, and the path in it.

    Raises:
        DataError: an unknown protocol, or one whose package isn't installed.
    """
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(spec)
    except (ValueError, ImportError) as error:
        raise DataError(
            f"'{spec}' can't be opened: {' '.join(str(error).split())}",
            "install what fsspec needs for it, e.g. pip install s3fs",
        ) from None
    return fs, str(root).rstrip("/")


def read_prepared(spec: str | Path) -> Prepared:
    """Read ``prepared.yaml``.

    Raises:
        DataError: `spec` wasn't written by `anytalk prepare`, or by a newer version of it.
        ConfigError: wrong fields.
    """
    where = str(spec)
    data = read_bytes(where, PREPARED_FILE)
    if data is None:
        there = is_remote(where) or Path(where).is_dir()
        raise DataError(
            f"'{where}' has no {PREPARED_FILE}" if there else f"folder '{where}' doesn't exist",
            f"make it: anytalk prepare data.yaml -o {where} --talker TALKER",
        )
    try:
        found = yaml.safe_load(data.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"'{where}/{PREPARED_FILE}' can't be read as YAML: {' '.join(str(error).split())}", "prepare again"
        ) from None
    version = found.get("format_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(f"'{where}' was prepared by a newer anytalk", "pip install -U anytalk")
    return validated(Prepared, found, f"'{where}/{PREPARED_FILE}' is not well-formed", "prepare again")


def read_ledger(spec: str | Path) -> Ledger:
    """Read the ledger of a prepared folder; it is empty if no shard is finished."""
    return parse_ledger(read_bytes(str(spec), LEDGER_FILE) or b"", f"{spec}/{LEDGER_FILE}")[0]


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write ``prepared.yaml``, completely or not at all."""
    text = yaml.safe_dump(prepared.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(folder / PREPARED_FILE, text)


def source_digest(source: SourceConfig, like: str | None = None) -> str | None:
    """Return a digest of a source's file; None for folders, hub ids and addresses.

    A row that was changed in the middle of a manifest changes it, unless the file is larger than 4 GB.

    Args:
        source: Of a data.yaml.
        like: A digest that it is to be compared with, which may have been made of the file's ends only.
    """
    path = Path(source.path)
    if is_remote(source.path) or not path.is_file():
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES and (like is None or like.startswith(_WHOLE)):
            return _WHOLE + hashlib.file_digest(file, "sha256").hexdigest()[:16]
        head = file.read(_DIGEST_BYTES)
        file.seek(max(0, size - _DIGEST_BYTES))
        tail = file.read()
    return hashlib.sha256(f"{size}|".encode() + head + tail).hexdigest()[:16]


def make_slug(name: str, taken: Iterable[str]) -> str:
    """Return a folder name for a source (letters, digits, dots and dashes) that isn't taken yet."""
    base = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "source"
    slug, used, number = base, set(taken), 2
    while slug in used:
        slug, number = f"{base}-{number}", number + 1
    return slug


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """List what differs between two nested mappings, e.g. ``"codec.fingerprint was a, is b"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
    return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
