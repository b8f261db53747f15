"""Write the talker's model card: figures from evaluation reports, facts from the talker folder, words from card.md.

    python card.py TALKER report/report.json [another/report.json ...]

Of a figure that several reports hold, the last one counts. Prints the table of figures and replaces TALKER/README.md.
Below the table stands what each report was measured on, and whether it is complete and of this talker.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytalk.errors import AnytalkError, DataError
from anytalk.model.config import read_config

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: What is measured.
        name: Its name in the report.
        target: What it should reach; None: it is only reported.
        floor: What it must reach; None: nothing.
        more_is_better: Whether more is better; otherwise it is errors or time.
    """

    what: str
    name: str
    target: float | None = None
    floor: float | None = None
    more_is_better: bool = False

    def bound(self, value: float | None) -> str:
        """Target or floor as people read it."""
        if value is None:
            return ""
        if self.name.endswith("bit_identical"):
            return shown(self.name, value)
        return f"{'at least' if self.more_is_better else 'at most'} {shown(self.name, value)}"

    def reached(self, value: float) -> str:
        """Which of the two a figure reaches."""
        if self.target is None:
            return ""
        sign = 1 if self.more_is_better else -1
        if sign * value >= sign * self.target:
            return "target"
        if self.floor is None:
            return "not the target"
        return "floor" if sign * value >= sign * self.floor else "**not the floor**"


LINES = (
    Line("spoken answer against its own text: held-out questions, typed in", "spoken_answers.wer", 0.05, 0.20),
    Line("the same, the text given: held-out answers of the templates, read aloud", "answers.wer"),
    Line("the same, the text given: ordinary English sentences, read aloud", "ordinary.wer", 0.25),
    Line("how answers sound, 1 to 5 (Distill-MOS, a predictor)", "spoken_answers.mos", more_is_better=True),
    Line("hearing: held-out questions, voices of the training", "asr_seen.wer", 0.08, 0.20),
    Line("hearing: held-out questions, a voice never trained on", "asr_unseen.wer", 0.15, 0.35),
    Line("spoken question answered as the typed one", "modality_gap.answer_agreement", 0.90, 0.75, True),
    Line("expected answer kept, where the typed question has it", "modality_gap.expected_kept", more_is_better=True),
    Line(
        "answered as the typed one, a voice never trained on",
        "modality_gap_unseen.answer_agreement",
        more_is_better=True,
    ),
    Line("expected answer kept, a voice never trained on", "modality_gap_unseen.expected_kept", more_is_better=True),
    Line("greedy answers identical to the parent's", "text_retention.identical_answers", 1.0, 1.0, True),
    Line("all logits bit-identical to the parent's", "text_retention.bit_identical", 1.0, more_is_better=True),
    Line("real-time factor", "latency.real_time_factor", 1.0),
    Line("time to first sound, median, of a spoken question", "latency.first_sound_p50_s", 1.0),
)
"""The table, from top to bottom."""


def shown(name: str, value: float) -> str:
    """A figure as people read it."""
    if name.endswith("bit_identical"):
        return "yes" if value else "no"
    if name.endswith("_s"):
        return f"{value:.2f} s"
    return f"{value:.2f}" if name.endswith(("factor", ".mos")) else f"{100 * value:.1f} %"


def figures(reports: list[dict[str, Any]]) -> list[str]:
    """The table."""
    found = {
        f"{measure}.{name}": figure
        for report in reports
        for measure, result in report["measures"].items()
        for name, figure in result["figures"].items()
    }
    lines = ["| figure | measured | 95 % | n | target | floor | reached |", "|---|---|---|---|---|---|---|"]
    for line in LINES:
        what, bounds = f"{line.what} (`{line.name}`)", f"{line.bound(line.target)} | {line.bound(line.floor)}"
        if line.name in found:
            figure = found[line.name]
            value = f"**{shown(line.name, figure['value'])}** | {interval(line.name, figure)} | {figure['n']}"
            lines.append(f"| {what} | {value} | {bounds} | {line.reached(figure['value'])} |")
        else:
            lines.append(f"| {what} | not measured | | | {bounds} | |")
    return lines


def interval(name: str, figure: dict[str, Any]) -> str:
    """Its bootstrap interval, where there is one."""
    if figure.get("low") is None:
        return ""
    return " to ".join(shown(name, figure[end]) for end in ("low", "high"))


def measured_on(name: str, report: dict[str, Any], weights: str) -> str:
    """Where a report comes from, and all that is wrong with it; `weights` is the digest of the talker's."""
    machine, date = report["machine"], report["date"][:10]
    on = f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} thread(s)"
    facts = [f"{', '.join(report['measures'])}: {date}, {on}"]
    facts += [
        f"load average when '{label}' ended: {result['load_average']:.1f}"
        for label, result in report["measures"].items()
        if result["kind"] == "latency" and result["load_average"] is not None
    ]
    facts += [
        f"answers of '{measure['name'] or measure['kind']}' compared up to {measure['max_tokens']} tokens"
        for measure in report["suite"]["measures"]
        if measure["kind"] == "text_retention"
    ]
    if not report["complete"]:
        facts.append("**the report is not complete**")
    facts += [f"**{sentence}**" for sentence in report["failed"]]
    theirs = (report["talker"]["config"].get("weights") or {}).get("sha256", "")
    if theirs != weights:
        facts.append(f"**measured with other weights than those of this folder ({theirs[:16] or 'none'})**")
    return f"- `{name}`: " + "; ".join(facts)


def training(folder: Path) -> list[str]:
    """Stages with their curves."""
    lines = ["| stage | trains | steps | loss | minutes |", "|---|---|---|---|---|"]
    history = read_config(folder).history
    for s in history:
        loss = f"{s.loss_first:.2f} to {s.loss_last:.2f}"
        lines.append(f"| {s.name} | {', '.join(s.trained)} | {s.steps} | {loss} | {s.seconds / 60:.0f} |")
    return [*lines, "", *(f"![loss of {s.name}]({s.curve})" for s in history if s.curve)]


def read_report(path: Path) -> dict[str, Any]:
    """A report; DataError for one that can't be read."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"report '{path}' can't be read: {error}", "give a report.json of anytalk eval") from None
    return report


def write_card(folder: Path, paths: list[Path]) -> list[str]:
    """Fill card.md's places and write the talker's README.md.

    Returns:
        The table of figures.

    Raises:
        DataError: a report or the samples are missing.
        TalkerError: no talker there.
    """
    config = read_config(folder)
    reports = [read_report(path) for path in paths]
    samples = folder / "samples" / "samples.md"
    if not samples.is_file():
        raise DataError(f"there is no '{samples}'", f"python samples.py {folder} eval {samples.parent}")
    weights = "" if config.weights is None else config.weights.sha256
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    table = figures(reports)
    places = {
        "FIGURES": [*table, "", *(measured_on(n, r, weights) for n, r in zip(names, reports, strict=True))],
        "STAGES": training(folder),
        "SAMPLES": [re.sub(r"\]\((?=\d\d-)", "](samples/", samples.read_text(encoding="utf-8").strip())],
    }
    text = (HERE / "card.md").read_text(encoding="utf-8")
    for place, lines in places.items():
        text = text.replace(f"<!-- {place} -->", "\n".join(lines))
    (folder / "README.md").write_text(text, encoding="utf-8")
    for place in re.findall(r"<!-- (\w+) -->", text):
        print(f"card.md has a place that nothing fills: {place}", file=sys.stderr)
    return table


def main() -> None:
    """Parse, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        print("\n".join(write_card(arguments.talker, arguments.reports)))
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
