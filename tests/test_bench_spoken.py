"""The benchmark of spoken questions runs; what it prints on tiny parts means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import tiny_talker

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "bench_spoken.py"


def test_the_benchmark_runs_on_tiny_parts(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    words = ["--turns", "1", "--max-columns", "12", "--json", str(tmp_path / "waits.json")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "t"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    waits = {wait["mode"]: wait for wait in json.loads((tmp_path / "waits.json").read_text())}
    assert set(waits) == {"server_vad", "manual"}
    # The server's silence lies between the last word and the end of the turn that it finds.
    assert waits["server_vad"]["from_speech_s"] > waits["server_vad"]["from_commit_s"] + 0.4
    assert waits["manual"]["from_speech_s"] == waits["manual"]["from_commit_s"] > 0
