"""Write a report: ``report.json``, ``report.md`` and a ``.jsonl`` of examples for each measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anytalk.errors import DataError
from anytalk.evaluate.bounds import Bound
from anytalk.evaluate.compared import compared
from anytalk.evaluate.config import Suite
from anytalk.evaluate.metrics import METRICS, format_interval, format_value
from anytalk.evaluate.plots import draw_plot, draw_summary
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Figure
from anytalk.files import write_whole
from anytalk.model.config import TalkerConfig

FORMAT_VERSION = 1
JSON_FILE = "report.json"
MARKDOWN_FILE = "report.md"
_WORST_COLUMNS = {
    "asr": ("id", "said", "written", "errors"),
    "spoken_answers": ("question", "asked", "text", "heard", "errors"),
    "reading": ("text", "heard", "errors"),
    "spoken_qa": ("question", "asked", "expected", "text"),
    "text_retention": ("question", "parent", "talker", "share"),
    "modality_gap": ("question", "asked_by_text", "asked_by_speech", "errors"),
    "latency": ("question", "encode", "prefill", "delay", "codec", "first_sound"),
    "cascade": ("question", "talker_heard", "cascade_heard", "cascade_heard_question"),
    "loss": ("id", "nats_per_token"),
    "pooled": ("measure", "id", "errors", "words"),
}


@dataclass
class Report:
    """Holds the content of a report."""

    suite: Suite
    talker: str  # folder of the talker
    config: TalkerConfig  # configuration of the talker
    arithmetic: str  # arithmetic of its answers
    command: list[str]  # command line that made the report
    date: str  # start, in UTC
    machine: dict[str, Any]  # the machine that measured
    packages: dict[str, str]  # versions of packages
    models: list[dict[str, str]]  # models with digests and licences
    bounds: list[Bound]  # conditions of `--fail-if`
    results: list[Result] = field(default_factory=list)  # finished measures
    is_complete: bool = False  # whether all measures are finished

    def metrics(self) -> dict[str, float]:
        """Return all figures by full name."""
        return {name: value for result in self.results for name, value in result.metrics().items()}

    def broken_bounds(self) -> list[str]:
        """Return a sentence for each bound that is broken."""
        found = (bound.broken_by(self.metrics()) for bound in self.bounds)
        return [sentence for sentence in found if sentence is not None]

    def compared(self) -> tuple[list[str], list[list[str]]] | None:
        """Return the talker next to published figures for the same sets; None if the suite has none."""
        return compared(self.suite, Path(self.talker).name or "the talker", self.results)

    def failures(self) -> list[str]:
        """Return a sentence for each measure that failed."""
        return [f"measure '{r.label}' failed: {r.reason}" for r in self.results if r.status == "failed"]


def write_report(report: Report, out: Path) -> None:
    """Write everything that is known so far; called after each measure, whose examples and plot are added.

    Raises:
        DataError: the folder can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for result in report.results[-1:]:
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in result.items)
            write_whole(out / f"{result.label}.jsonl", lines)
            result.plot = draw_plot(result, out)
        summary = draw_summary(report.results, out) if report.is_complete else None
        write_whole(out / MARKDOWN_FILE, markdown(report, summary))
        write_whole(out / JSON_FILE, json.dumps(as_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"the report can't be written to '{out}': {error}", "choose another -o") from None


def as_json(report: Report) -> dict[str, Any]:
    """Return the content of ``report.json``."""
    return {
        "format_version": FORMAT_VERSION,
        "complete": report.is_complete,
        "metrics": report.metrics(),
        "failed": report.failures(),
        "broken_bounds": report.broken_bounds() if report.is_complete else [],
        "measures": {result.label: result.as_json() for result in report.results},
        "talker": {
            "folder": report.talker,
            "arithmetic": report.arithmetic,
            "config": report.config.model_dump(mode="json"),
        },
        "suite": report.suite.model_dump(mode="json"),
        "seed": report.suite.seed,
        "models": report.models,
        "packages": report.packages,
        "machine": report.machine,
        "command": report.command,
        "date": report.date,
    }


def read_partial(out: Path) -> dict[str, Result]:
    """Read the measures that an interrupted run finished; empty if that run was complete or can't be read."""
    try:
        data = json.loads((out / JSON_FILE).read_text(encoding="utf-8"))
        if data["complete"] or data["format_version"] != FORMAT_VERSION:
            return {}
        return {
            label: Result.from_json(
                measure,
                [json.loads(line) for line in (out / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()],
            )
            for label, measure in data["measures"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# ---- report.md


def markdown(report: Report, summary: str | None) -> str:
    """Return the content of ``report.md``; `summary` is the file name of the plot of all measures."""
    pieces = [f"# {report.suite.name}: {Path(report.talker).name or 'a talker'}", _verdict(report)]
    pieces.append(
        _table(("measure", "headline", "value", "95 % interval", "n"), [_headline(r) for r in report.results])
    )
    beside = report.compared()
    if beside is not None:
        pieces.append(_table(*beside))
    if summary is not None:
        pieces.append(f"![Shares and rates with their 95 % intervals]({summary})")
    for result in report.results:
        pieces += _section(result)
    pieces += _provenance(report)
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _verdict(report: Report) -> str:
    lines = [] if report.is_complete else ["**Not complete:** the run was interrupted or is still going on."]
    lines += [f"**Not everything:** {report.suite.left_out}."] if report.suite.left_out else []
    lines += [f"**Failed:** {sentence}" for sentence in report.failures()]
    if report.is_complete:
        lines += [f"**Bound broken:** {sentence}" for sentence in report.broken_bounds()]
        kept = len(report.bounds) - len(report.broken_bounds())
        if kept:
            lines.append(f"{kept} of {len(report.bounds)} bounds kept.")
    return "\n\n".join(lines)


def _headline(result: Result) -> Sequence[str]:
    name = f"{result.label}.{result.headline}"
    figure = result.figures.get(result.headline)
    if figure is None:
        return (result.label, name, result.status if result.status == "failed" else "not measured", "", "")
    unit = METRICS[result.kind][result.headline].unit
    return (result.label, name, format_value(figure.value, unit), _interval(figure, unit), str(figure.n))


def _interval(figure: Figure, unit: str) -> str:
    return format_interval(figure.low, figure.high, unit)


def _section(result: Result) -> list[str]:
    pieces = [f"## {result.label}"]
    if result.status == "failed":
        return [*pieces, f"Failed: {result.reason}."]
    known = METRICS[result.kind]
    if result.kind == "cascade":
        pieces.append(_side_by_side(result))
    else:
        rows = [
            (
                name,
                format_value(f.value, known[name].unit),
                _interval(f, known[name].unit),
                str(f.n),
                known[name].summary,
            )
            for name, f in result.figures.items()
        ]
        pieces.append(_table(("metric", "value", "95 % interval", "n", "what it is"), rows))
    pieces += result.notes
    if result.plot is not None:
        pieces.append(f"![{result.label}]({result.plot})")
    if result.worst:
        columns = _WORST_COLUMNS[result.kind]
        worst = [[_cell(item.get(column)) for column in columns] for item in result.worst]
        pieces += [f"The worst {len(result.worst)} of {len(result.items)} (all: `{result.label}.jsonl`):"]
        pieces.append(_table(columns, worst))
    if result.skipped:
        shown = "; ".join(f"{row['id']} {row['reason']}" for row in result.skipped[:3])
        more = f" and {len(result.skipped) - 3} more" if len(result.skipped) > 3 else ""
        pieces.append(f"{len(result.skipped)} left out: {shown}{more}.")
    load = "" if result.load_average is None else f", load average at its end {result.load_average:.1f}"
    pieces.append(f"Took {result.seconds:.1f} s{load}.")
    return pieces


def _side_by_side(result: Result) -> str:
    known, rows = METRICS["cascade"], []
    names = [name.removeprefix("talker_") for name in known if name.startswith("talker_")]
    for name in names:
        pair = [result.figures.get(f"{who}_{name}") for who in ("talker", "cascade")]
        if any(pair):
            metric = known[f"talker_{name}"]
            cells = [
                "-" if f is None else f"{format_value(f.value, metric.unit)} ({_interval(f, metric.unit)})"
                for f in pair
            ]
            rows.append((name, *(cell.replace(" ()", "") for cell in cells), metric.summary.removeprefix("talker: ")))
    title = f"n = {len(result.items)}; 95 % intervals in brackets."
    return title + "\n\n" + _table(("metric", "talker", "cascade", "what it is"), rows)


def _provenance(report: Report) -> list[str]:
    facts = {"date": report.date, "seed": str(report.suite.seed), "arithmetic": report.arithmetic, **report.machine}
    return [
        "## Made with",
        "```sh\n" + " ".join(report.command) + "\n```" if report.command else "",
        _table(("role", "part", "digest", "licence"), [tuple(model.values()) for model in report.models]),
        _table(("fact", "value"), [(key, _cell(value)) for key, value in facts.items() if value not in (None, "")]),
        "Packages: " + ", ".join(f"{name} {number}" for name, number in report.packages.items()) + ".",
        "Greedy decoding. Intervals are percentiles of a bootstrap over examples "
        f"({report.suite.bootstrap_samples} samples).",
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    """Return the text on one line, escaped so that Markdown takes no part of it for a table or a picture."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
