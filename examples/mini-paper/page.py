"""The page of a run: Markdown and pictures from what lies in its folder, however far it got."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from questions import VARIANTS
from suites import SPEAKS_AFTER

from anytalk.data.ledger import is_prepared
from anytalk.data.stats import SourceStats, prepared_stats
from anytalk.evaluate.metrics import METRICS, format_interval, format_value
from anytalk.evaluate.stats import Bootstrap, Figure
from anytalk.evaluate.wer import word_error_rate
from anytalk.model.config import StageRecord, read_config
from anytalk.plugins.registry import default_registry
from anytalk.train.config import Recipe, find_recipe, override_stages

Row = Sequence[str]


def write_page(out: Path, scale: dict[str, Any]) -> None:
    """Write ``README.md`` and its pictures."""
    if not (out / "talker" / "talker.yaml").is_file():
        return
    sizes = [f"{name}={value}" for name, value in scale["stages"].items()]
    recipe = override_stages(find_recipe("paper", default_registry()), sizes)
    config = read_config(out / "talker")
    trained = {record.name: record for record in config.history}
    parts = [
        "# The paper's recipe in small\n",
        _made_of(out, scale, config),
        "## Which data in which stage\n",
        _data(out, recipe, trained),
        "## Curves\n",
        _curves(out, trained),
        "## What is heard: word errors\n",
        _heard(out, recipe, scale),
        "## What is left of the language model\n",
        _text(out, recipe),
        "## What it reads aloud\n",
        _read(out, recipe),
        "## Spoken answers, with and without batch-parallel decoding\n",
        _spoken(out),
        "## Open questions of the paper\n",
        _questions(out, scale["ablation"]),
    ]
    (out / "README.md").write_text("\n".join(parts), encoding="utf-8")


def table(columns: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; numbers in the same words as `anytalk eval` prints them."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines) + "\n"


def report(out: Path, checkpoint: str, suite: str) -> dict[str, dict[str, Any]]:
    """Measures of a report by their names; none where it wasn't made."""
    path = out / "eval" / checkpoint / suite / "report.json"
    measures: dict[str, dict[str, Any]] = {}
    if path.is_file():
        measures = json.loads(path.read_text(encoding="utf-8"))["measures"]
    return measures


def items_of(out: Path, checkpoint: str, suite: str, label: str) -> list[dict[str, Any]]:
    """The examples behind a measure; none where it wasn't made."""
    path = out / "eval" / checkpoint / suite / f"{label}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def told(measures: dict[str, dict[str, Any]], label: str, metric: str) -> str:
    """A figure with its interval and its number of examples, or a dash."""
    measure = measures.get(label)
    figure = measure and measure["figures"].get(metric)
    if not measure or not figure:
        return "-"
    unit = METRICS[measure["kind"]][metric].unit
    interval = format_interval(figure["low"], figure["high"], unit)
    found = format_value(figure["value"], unit) + (f" ({interval})" if interval else "") + f", n {figure['n']}"
    return found.replace(" per token", "")


def rate(figure: Figure) -> str:
    """A share, as :func:`told` tells it."""
    return told({"asr": {"kind": "asr", "figures": {"wer": asdict(figure)}}}, "asr", "wer")


def _made_of(out: Path, scale: dict[str, Any], config: Any) -> str:
    seconds = {path.name: float(path.read_text()) for path in sorted((out / "steps").glob("*"))}
    # An interrupted training knows its whole time, its step only that of the last try.
    learnt = sum(record.seconds for record in config.history)
    spent = f"{learnt / 60:.1f} of training in the four stages" + "".join(
        f", {sum(s for n, s in seconds.items() if n.startswith(word)) / 60:.1f} of {what}"
        for word, what in (("prepare", "making data"), ("eval", "measuring"))
    )
    parts = {part: getattr(config, part) for part in ("encoder", "input_adapter", "output_adapter", "heads", "codec")}
    names = ", ".join(f"{part} `{ref.name}`" for part, ref in parts.items() if ref is not None)
    grid = config.grid
    return (
        f"Made by `python examples/mini-paper/run.py OUT --scale {scale['name']}`. Language model "
        f"`{config.base.model}`; {names}; {grid.codec_streams} code streams, pattern `{grid.pattern}`, merge "
        f"`{grid.merge}`. {_why(config.codec.name)}Minutes: {spent}. In brackets 95 % bootstrap intervals over the n "
        "examples.\n"
    )


def _why(codec: str) -> str:
    """A sentence about a codec that isn't the paper's."""
    if codec != "heart":
        return ""
    return (
        "The codec is `heart`, because SNAC's weights were not on the machine: of what is installed it alone makes "
        "natural speech, and its 10 frames a second keep rows short. "
    )


def _data(out: Path, recipe: Recipe, trained: dict[str, StageRecord]) -> str:
    folder = out / "shards"
    if not is_prepared(str(folder)):
        return "No data was prepared.\n"
    sources = prepared_stats(folder)

    def served(source: SourceStats, tasks: Sequence[str]) -> str:
        found = [task for task in tasks if source.tasks.get(task)]
        return ", ".join(found) or "-"

    rows = [
        (
            source.name,
            str(source.kept),
            f"{source.question_hours:.2f}",
            f"{source.answer_hours:.2f}",
            *(served(source, list(stage.tasks)) for stage in recipe.stages),
        )
        for source in sources
    ]
    seen = ("steps x rows", "", "", "", *(f"{stage.steps} x {stage.batch_size}" for stage in recipe.stages))
    records = [trained.get(stage.name) for stage in recipe.stages]
    done = [
        f"{r.seconds / 60:.1f} min, loss {r.loss_first:.2f} to {r.loss_last:.2f}" if r else "not run" for r in records
    ]
    columns = ("source", "rows", "hours heard", "hours spoken", *(stage.name for stage in recipe.stages))
    moved = ("what moves", "", "", "", *(", ".join(stage.parts) for stage in recipe.stages))
    return (
        "Under each stage, the tasks that a source served in it. Every batch holds the tasks of its stage in equal "
        "parts, and within a task its sources.\n\n"
        + table(columns, [*rows, moved, seen, ("came out", "", "", "", *done)])
    )


def _curves(out: Path, trained: dict[str, StageRecord]) -> str:
    lines = []
    for name in trained:
        shutil.copyfile(out / "talker" / "history" / f"{name}.png", out / f"{name}.png")
        lines.append(f"![Losses of the stage {name}]({name}.png)")
    return (
        "Bold: each loss; thin: each audio stream; dashed: rows that nothing is learned from.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _heard(out: Path, recipe: Recipe, scale: dict[str, Any]) -> str:
    stages = [stage.name for stage in recipe.stages if report(out, stage.name, "hear")]
    if not stages:
        return "Not measured.\n"
    first = report(out, stages[0], "hear")
    rows = []
    for label in sorted(first, key=lambda label: label == "people"):
        whisper = told(first, label, "transcriber_wer")
        if label == "people":
            items = items_of(out, stages[0], "hear", label)
            pooled = Bootstrap().ratio([i["transcriber_errors"] for i in items], [i["words"] for i in items])
            whisper = rate(pooled)
        rows.append((label, *(told(report(out, stage, "hear"), label, "wer") for stage in stages), whisper))
    return (
        f"Clips of at most {scale['longest_s']} s, drawn by chance; `people` is all sets of recordings together, "
        "`synthetic` questions that no stage had, in a voice that it had. A transcript is cut off after "
        f"{scale['eval']['columns_heard']} tokens.\n\n"
        + table(("set", *(f"after {stage}" for stage in stages), "Whisper's own decoder"), rows)
    )


def _text(out: Path, recipe: Recipe) -> str:
    checkpoints = ["attached", *(stage.name for stage in recipe.stages), "mean-untrained"]
    names = {"attached": "before (merge sum)", "mean-untrained": "before, with merge mean"}
    rows = []
    for checkpoint in checkpoints:
        found = report(out, checkpoint, "text")
        if found:
            figures = [
                told(found, "text_retention", metric)
                for metric in ("perplexity_talker", "greedy_agreement", "identical_answers")
            ]
            rows.append(
                (names.get(checkpoint, f"after {checkpoint}"), *figures, told(found, "closed_book", "accuracy"))
            )
    columns = ("talker", "perplexity of plain texts", "greedy tokens as the parent's", "same answers", "closed book")
    return table(columns, rows)


def _read(out: Path, recipe: Recipe) -> str:
    rows = [
        (
            f"after {s.name}",
            told(report(out, s.name, "read"), "reading", "wer"),
            told(report(out, s.name, "loss"), "loss", "audio"),
        )
        for s in recipe.stages
        if report(out, s.name, "read")
    ]
    return table(("talker", "words misheard by Whisper base", "loss of a token of the voice, held out"), rows)


def _spoken(out: Path) -> str:
    rows = []
    found = report(out, SPEAKS_AFTER, "speak")
    written = {item["question"]: item["text"] for item in items_of(out, SPEAKS_AFTER, "text", "closed_book")}
    for name, title in (("parallel", "with"), ("alone", "without")):
        items = items_of(out, SPEAKS_AFTER, "speak", name)
        if items:
            metrics = ("text_contains", "text_heard", "speech_contains", "speech_heard")
            counts = [word_error_rate([item["text"]], [item["heard_text"]]) for item in items]
            wrong = Bootstrap().ratio([c.errors for c in counts], [c.reference_words for c in counts])
            typed = [item for item in items if item["asked"] == "text" and item["question"] in written]
            same = Bootstrap().mean([float(item["text"] == written[item["question"]]) for item in typed])
            rows.append((title, rate(same), *(told(found, name, metric) for metric in metrics), rate(wrong)))
    if not rows:
        return "Not measured.\n"
    columns = (
        f"after {SPEAKS_AFTER}, batch-parallel",
        "typed: the same text as in writing",
        "typed: text right",
        "typed: heard right",
        "spoken: text right",
        "spoken: heard right",
        "words misheard",
    )
    return table(columns, rows)


def _questions(out: Path, scale: dict[str, Any]) -> str:
    items = {name: items_of(out, name, "loss", "loss") for name in VARIANTS}
    base = items["base"]
    rows, drawn = [], []
    for name, variant in VARIANTS.items():
        if not items[name]:
            continue
        lost = [item["audio_nats"] for item in items[name]]
        frames = [item["frames"] for item in items[name]]
        figure = Bootstrap().ratio(lost, frames)
        drawn.append((variant.title, figure))
        away = "-"
        if base and name != "base" and len(base) == len(lost):
            difference = Bootstrap().ratio(
                [mine - item["audio_nats"] for mine, item in zip(lost, base, strict=True)], frames
            )
            away = f"{difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
        record = read_config(out / "questions" / name).history[-1]
        low_high = f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
        batch = scale["flatten_rows"] if name == "flatten" else scale["stage"]["batch_size"]
        rows.append((variant.title, f"{record.steps} x {batch}", f"{record.seconds:.0f} s", low_high, away))
    if not rows:
        return "Not run.\n"
    _draw(out / "questions.png", drawn)
    size = (
        f"the first {scale['layers']} layers of the language model" if scale["layers"] else "the whole language model"
    )
    columns = ("grid", "steps x rows", "time", "nats per codec frame, held out", "against the first, row by row")
    return (
        f"Each is one change of a talker made from {size}, in which all but the text embeddings learns to read aloud "
        "(T1A1), from nothing and from the same rows. The last column is the difference to the first grid on the same "
        "held-out rows.\n\n"
        + table(columns, rows)
        + "\n![What a frame of held-out speech costs each of them](questions.png)\n"
    )


def _draw(path: Path, drawn: Sequence[tuple[str, Any]]) -> None:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for place, (title, found) in enumerate(reversed(drawn)):
        axes.errorbar(
            found.value, place, xerr=[[found.value - found.low], [found.high - found.value]], fmt="o", capsize=3
        )
        del title
    axes.set_yticks(range(len(drawn)), [title for title, _ in reversed(drawn)])
    axes.set_xlabel("nats per codec frame, held-out speech (95 % interval)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
