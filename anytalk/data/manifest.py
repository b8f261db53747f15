"""The ``jsonl`` data source: one JSON object per line.

Fields, all optional but what the tasks need: ``question_text``, ``question_audio``, ``answer_text``, ``answer_audio``,
``speaker``. Paths are relative to the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from anytalk import plugins
from anytalk.errors import DataError, did_you_mean
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import DataSource, Row

FIELDS = ("question_text", "question_audio", "answer_text", "answer_audio", "speaker")


class JsonlSource(DataSource):
    """Reads a JSONL manifest."""

    licence = "of the data"

    class Options(plugins.Options):
        """Options of the source."""

        path: str = Field(description="The manifest.")

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def build(cls, options: JsonlSource.Options, context: BuildContext) -> Self:
        """See the contract; a manifest that isn't there is a DataError."""
        path = Path(options.path)
        if not path.is_file():
            raise DataError(f"manifest '{path}' doesn't exist", "give the path of a .jsonl file: --data FILE")
        return cls(path)

    def rows(self) -> Iterator[Row]:
        """All rows; a DataError names the line and what is wrong with it."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._row(line, number)

    def _row(self, line: bytes, number: int) -> Row:
        where = f"{self.path.name}:{number}"
        try:
            data = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(f"{where} is not UTF-8 text", "save the manifest as UTF-8") from None
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}", "write one JSON object per line") from None
        if not isinstance(data, dict):
            raise DataError(
                f"{where} is a JSON {type(data).__name__}; an object is expected", f"fields: {', '.join(FIELDS)}"
            )
        for key, value in data.items():
            if key not in FIELDS:
                raise DataError(
                    f"{where}: unknown field '{key}'{did_you_mean(key, list(FIELDS))}", f"fields: {', '.join(FIELDS)}"
                )
            if value is not None and not isinstance(value, str):
                raise DataError(f"{where}: field '{key}' is a {type(value).__name__}; text is expected", "quote it")
        return Row(
            id=where,
            question_text=data.get("question_text"),
            question_audio=self._audio(data.get("question_audio"), where),
            answer_text=data.get("answer_text"),
            answer_audio=self._audio(data.get("answer_audio"), where),
            speaker=data.get("speaker"),
        )

    def _audio(self, name: str | None, where: str) -> Path | None:
        if name is None:
            return None
        path = self.path.parent / name
        if not path.is_file():
            raise DataError(f"{where}: sound file '{name}' doesn't exist", f"paths are relative to {self.path.parent}")
        return path


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL, beside the target first."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
