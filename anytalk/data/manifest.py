"""Write manifests: JSONL files that the data source ``jsonl`` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anytalk.files import write_whole
from anytalk.plugins.contracts import MANIFEST_FIELDS as FIELDS

__all__ = ["FIELDS", "write_manifest"]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL, completely or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
