"""Make training speech for a set of texts: ``anytalk voice``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anytalk.cli.render import commands, err, note, say, show_left_out
from anytalk.errors import ConfigError, DataError
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry


def command(
    texts: Path = typer.Argument(help="JSONL with question_text and optionally answer_text."),
    folder: Path = typer.Option(..., "-o", "--out", help="Folder for the sound and manifest.jsonl."),
    synthesizer: str = typer.Option("piper", help="Synthesizer plugin."),
    answer_synthesizer: str | None = typer.Option(None, help="Synthesizer of the answers; default: the same."),
    voice: str | None = typer.Option(None, help="Voice of the answers; default: the synthesizer's first."),
    question_voices: str | None = typer.Option(None, help="Voices of the questions, comma-separated, or 'all'."),
    speeds: str = typer.Option("1.0", help="Speeds of the questions, comma-separated."),
    answers_from: Path | None = typer.Option(None, help="Talker whose greedy text answers fill missing ones."),
    max_tokens: int = typer.Option(128, min=1, help="Longest answer of --answers-from, in tokens."),
) -> None:
    """Read a text set aloud and write a training manifest. Run again to resume."""
    pace = parse_speeds(speeds)
    registry = default_registry()
    for name in filter(None, (synthesizer, answer_synthesizer)):
        registry.find("synthesizer", name)
    if not texts.is_file():
        raise DataError(f"'{texts}' doesn't exist", 'write one {"question_text": "..."} per line')
    with err.status("loading torch and the synthesizer ..."):
        from anytalk.data.voice import read_texts, voice_texts
        from anytalk.data.voicing import choose_voices
        from anytalk.decode.greedy import greedy_answers

        pairs, unread = read_texts(texts)
        speaker = registry.build("synthesizer", PartRef(name=synthesizer))
        voices = speaker.voices if question_voices == "all" else _split(question_voices) or speaker.voices[:1]
        answerer = registry.build("synthesizer", PartRef(name=answer_synthesizer)) if answer_synthesizer else None
        voicing = choose_voices(speaker, voices, pace, voice, answerer)
    with Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    ) as bars:
        if answers_from is not None:
            from anytalk.model.talker import load_talker

            missing = [i for i, pair in enumerate(pairs) if pair.answer is None]
            bar = bars.add_task("answering", total=len(missing))
            found = greedy_answers(
                load_talker(answers_from, with_encoder=False),
                [pairs[i].question for i in missing],
                max_tokens=max_tokens,
                progress=lambda done, total: bars.update(bar, completed=done, total=total),
            )
            for i, answer in zip(missing, found, strict=True):
                # A synthesizer can't say an answer of punctuation alone.
                pairs[i] = replace(pairs[i], answer=answer if any(c.isalnum() for c in answer) else None)
        spoken = bars.add_task("speaking", total=None)
        manifest, unsaid = voice_texts(
            pairs,
            folder,
            voicing,
            progress=lambda done, total: bars.update(spoken, completed=done, total=total),
        )
    show_left_out([*unread, *unsaid])
    mute = sum(pair.answer is None for pair in pairs)
    if mute:
        note(f"{mute} of {len(pairs)} questions have no answer: tasks that end in 2 can't use them (--answers-from)")
    say(f"{len(pairs)} questions in {len(voices) * len(pace)} reading(s): {manifest}")
    commands("Type next", [f"anytalk train TALKER --data {manifest} --recipe demo"])


def parse_speeds(text: str) -> list[float]:
    """Parse ``"0.9,1.1"`` into ``[0.9, 1.1]``; ConfigError if a piece isn't a number."""
    try:
        return [float(piece) for piece in _split(text)] or [1.0]
    except ValueError:
        raise ConfigError(
            f"--speeds is '{text}'; numbers separated by commas are expected", "e.g. --speeds 0.9,1.1"
        ) from None


def _split(text: str | None) -> list[str]:
    return [piece.strip() for piece in (text or "").split(",") if piece.strip()]
