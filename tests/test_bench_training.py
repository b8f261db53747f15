"""The training benchmark runs; what it prints on tiny parts means nothing."""

from __future__ import annotations

import json
from pathlib import Path

from importable import run_example


def test_the_benchmark_runs_on_tiny_parts(tmp_path: Path) -> None:
    figures_file = tmp_path / "figures.json"
    words = [
        "--tiny",
        "--stages",
        "alignment",
        "multimodal",
        "--steps",
        "2",
        "--rows",
        "4",
        "--json",
        str(figures_file),
    ]
    printed = run_example("bench_training.py", *words)
    figures = json.loads(figures_file.read_text())["figures"]
    assert [figure["stage"] for figure in figures] == ["alignment", "multimodal"]
    for figure in figures:
        assert figure["loop_s"] > 0
        assert len(figure["ratios"]) == 2
        assert min(figure["ratios"]) <= figure["ratio"] <= max(figure["ratios"])
        assert figure["padding"] <= 0.1 < figure["padding_unsorted"]
        assert figure["memory"]["planned"] > figure["memory"]["activations"] > 0
        assert figure["memory"]["pass"] <= figure["positions_per_step"] * 4
        assert figure["stage"] in printed
