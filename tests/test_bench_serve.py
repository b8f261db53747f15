"""The benchmark of the server runs; what it prints on tiny parts means nothing."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import tiny_talker
from importable import run_example


def test_the_benchmark_runs_on_tiny_parts(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    words = ["--sessions", "3", "9", "--turns", "2", "--max-columns", "12", "--json", str(tmp_path / "figures.json")]
    run_example("bench_serve.py", tmp_path / "t", *words)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(c["sessions"], len(c["answers"]), c["other_answers"]) for c in figures["crowds"]] == [
        (3, 6, 0),
        (9, 18, 0),
    ]
    for group in (figures["alone"], *figures["crowds"]):
        assert min(group["cpu_s_per_speech_s"], group["speech_s_per_s"]) > 0
        assert all(a["end_s"] >= a["first_sound_s"] > 0 and a["late_s"] >= 0 for a in group["answers"])
