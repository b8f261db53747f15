"""The benchmark of spoken questions runs; what it prints on tiny parts means nothing."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import tiny_talker
from importable import run_example


def test_the_benchmark_runs_on_tiny_parts(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    words = ["--turns", "1", "--max-columns", "12", "--json", str(tmp_path / "waits.json")]
    run_example("bench_spoken.py", tmp_path / "t", *words)
    waits = {wait["mode"]: wait for wait in json.loads((tmp_path / "waits.json").read_text())}
    assert set(waits) == {"server_vad", "manual"}
    # The server's silence lies between the last word and the end of the turn that it finds.
    assert waits["server_vad"]["from_speech_s"] > waits["server_vad"]["from_commit_s"] + 0.4
    assert waits["manual"]["from_speech_s"] == waits["manual"]["from_commit_s"] > 0
