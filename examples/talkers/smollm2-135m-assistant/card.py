"""Write the talker's model card: figures from evaluation reports, facts from the talker folder, words from card.md.

    python card.py TALKER report/report.json [another/report.json ...]

Of a figure that several reports hold, the last one counts. Replaces TALKER/README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from anytalk.model.config import read_config

ROWS = (
    ("spoken answer against its own text: 200 held-out answers, read aloud", "answers.wer", "5 %", "20 %"),
    ("the same: 100 sentences of ordinary English outside the templates", "ordinary.wer", "25 %", "report"),
    ("the same: its own words in answer to held-out questions", "spoken_answers.wer", "", ""),
    ("hearing: WER of held-out questions, voices of the training", "asr_seen.wer", "8 %", "20 %"),
    ("hearing: WER of held-out questions, a voice never trained on", "asr_unseen.wer", "15 %", "35 %"),
    (
        "spoken question gets the typed one's answer, voices of the training",
        "modality_gap.answer_agreement",
        "90 %",
        "75 %",
    ),
    ("the same, a voice never trained on", "modality_gap_unseen.answer_agreement", "", ""),
    (
        "text retention: greedy answers identical to the parent's, 200 prompts",
        "text_retention.identical_answers",
        "100 %",
        "100 %",
    ),
    ("all logits bit-identical to the parent's", "text_retention.bit_identical", "yes", ""),
    ("real-time factor", "latency.real_time_factor", "below 1", "report"),
    ("time to first sound, median, of a spoken question", "latency.first_sound_p50_s", "1 s", "report"),
)
"""What is measured, its name in the report, target, floor."""

HERE = Path(__file__).parent


def shown(name: str, value: float) -> str:
    """A figure as people read it."""
    if name.endswith("bit_identical"):
        return "yes" if value else "no"
    if name.endswith("_s"):
        return f"{value:.2f} s"
    return f"{value:.2f}" if name.endswith("factor") else f"{100 * value:.1f} %"


def figures(reports: list[dict[str, Any]]) -> list[str]:
    """The table."""
    found: dict[str, tuple[float, int, str]] = {}
    for report in reports:
        for measure, result in report["measures"].items():
            for name, figure in result["figures"].items():
                found[f"{measure}.{name}"] = (figure["value"], figure["n"], interval(measure, name, figure))
    lines = ["| figure | measured | 95 % | n | target | floor |", "|---|---|---|---|---|---|"]
    for what, name, target, floor in ROWS:
        if name in found:
            value, n, between = found[name]
            lines.append(f"| {what} (`{name}`) | **{shown(name, value)}** | {between} | {n} | {target} | {floor} |")
        else:
            lines.append(f"| {what} (`{name}`) | not measured | | | {target} | {floor} |")
    return lines


def interval(measure: str, name: str, figure: dict[str, Any]) -> str:
    """Its bootstrap interval, where there is one."""
    if figure.get("low") is None:
        return ""
    return " to ".join(shown(f"{measure}.{name}", figure[end]) for end in ("low", "high"))


def training(folder: Path) -> list[str]:
    """Stages with their curves."""
    lines = ["| stage | trains | steps | loss | minutes |", "|---|---|---|---|---|"]
    history = read_config(folder).history
    for s in history:
        loss = f"{s.loss_first:.2f} to {s.loss_last:.2f}"
        lines.append(f"| {s.name} | {', '.join(s.trained)} | {s.steps} | {loss} | {s.seconds / 60:.0f} |")
    return [*lines, "", *(f"![loss of {s.name}]({s.curve})" for s in history if s.curve)]


def main() -> None:
    """Fill card.md's places and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.reports]
    samples = arguments.talker / "samples" / "samples.md"
    table = samples.read_text(encoding="utf-8").replace("](0", "](samples/0").replace("](1", "](samples/1")
    text = (HERE / "card.md").read_text(encoding="utf-8")
    for place, lines in (
        ("FIGURES", figures(reports)),
        ("STAGES", training(arguments.talker)),
        ("SAMPLES", [table.strip()]),
    ):
        text = text.replace(f"<!-- {place} -->", "\n".join(lines))
    (arguments.talker / "README.md").write_text(text, encoding="utf-8")
    print("\n".join(figures(reports)))


if __name__ == "__main__":
    main()
