"""The example set is what its builder makes of its sources, and the page about cleaning is complete."""

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.data.config import read_data_config, read_rows
from anytalk.plugins.contracts import Row
from anytalk.plugins.registry import default_registry
from anytalk.text.rules import RAW_RULES, SPOKEN_RULES, Rules

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/data"
WRITTEN = ("assistant.jsonl", "assistant.dropped.jsonl")


def test_the_builder_makes_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("build.py", "facts.py", "raw.jsonl"):
        (tmp_path / name).write_bytes((EXAMPLE / name).read_bytes())
    done = subprocess.run(
        [sys.executable, str(tmp_path / "build.py")], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name in WRITTEN:
        assert (tmp_path / name).read_bytes() == (EXAMPLE / name).read_bytes(), f"run examples/data/build.py: {name}"


def test_the_set_is_clean_by_the_command_too(tmp_path: Path) -> None:
    target = tmp_path / "again.jsonl"
    result = CliRunner().invoke(build_app(), ["data", "clean", str(EXAMPLE / "assistant.jsonl"), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == (EXAMPLE / "assistant.jsonl").read_bytes()


def test_the_messy_rows_show_every_rule_that_is_on() -> None:
    drops = [json.loads(line)["rule"] for line in (EXAMPLE / "assistant.dropped.jsonl").read_text("utf-8").splitlines()]
    assert {*drops} == {*RAW_RULES, *SPOKEN_RULES, "duplicate"} - {"assistant_talk"}


def test_its_data_file_is_read() -> None:
    config = read_data_config(EXAMPLE / "data.yaml")
    assert config.voice is not None
    assert config.voice.question_voices == ["joe", "joe-low", "joe-high"]
    rows = list(read_rows(config.sources[0], default_registry()))
    assert all(isinstance(row, Row) for row in rows)
    assert len(rows) >= 190


def test_the_page_about_cleaning_names_every_rule_and_limit() -> None:
    page = (ROOT / "docs/cleaning.md").read_text(encoding="utf-8")
    for name in (*Rules.model_fields, *RAW_RULES, *SPOKEN_RULES, "duplicate", "unreadable", "rewrite"):
        assert f"`{name}`" in page, name
