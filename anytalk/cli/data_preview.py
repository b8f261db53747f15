"""Show rows as training sees them, as text, grids, pictures and sound: ``anytalk data preview``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anytalk.cli.layout import show as show_grid
from anytalk.cli.render import err, note, out, pairs
from anytalk.errors import AudioError, DataError
from anytalk.grid.tasks import find_task
from anytalk.plugins.registry import default_registry

if TYPE_CHECKING:
    from anytalk.data.examples import Clip, Example
    from anytalk.data.preview import Preview
    from anytalk.grid.tasks import Task
    from anytalk.model.talker import Talker
    from anytalk.plugins.contracts import Audio, Row


def command(
    data: str = typer.Argument(help="data.yaml, a manifest (.jsonl, .csv), or a prepared folder or address."),
    talker: Path | None = typer.Option(None, help="Talker for grids and sound; default: the one used in prepare."),
    number: int = typer.Option(3, "-n", "--rows", min=1, help="Rows of each source."),
    task: str | None = typer.Option(None, help="Draw only rows usable for this task."),
    folder: Path | None = typer.Option(
        None, "-o", "--out", help="Also write grids, spectrograms and sound to this folder."
    ),
    columns: int = typer.Option(40, min=0, help="Most grid columns on the terminal; 0: all."),
) -> None:
    """Print and draw rows: texts, lengths, tasks, the grid and what is in the loss."""
    from anytalk.data.config import read_data_config
    from anytalk.data.ledger import is_prepared, read_prepared

    registry = default_registry()
    if task is not None:
        task = find_task(task).name
    prepared = is_prepared(data)
    if prepared and talker is None:
        known = Path(read_prepared(data).talker)
        talker = known if (known / "talker.yaml").is_file() else None
    config = None if prepared else read_data_config(Path(data))
    with err.status("loading torch and the talker ..." if talker else "loading torch ..."):
        from anytalk.data.preview import prepared_previews, source_previews
        from anytalk.model.talker import load_talker

        loaded = None if talker is None else load_talker(talker, with_encoder=not prepared)
        if config is None:
            # Features in the shards fit only a talker with the same encoder and codec.
            if loaded is not None:
                from anytalk.data.shard_feed import check_fits

                check_fits(data, loaded)
            found = prepared_previews(data, number, task)
        else:
            found = source_previews(config, number, registry, loaded, task)
    if not found:
        raise DataError(f"'{data}' has no rows" + (f" that serve {task}" if task else ""), "see `anytalk data stats`")
    for preview in found:
        _show(preview, loaded, task, columns, folder)
    if loaded is None:
        note("grids and sound need a talker: --talker TALKER")
    elif folder is not None:
        note(f"pictures and sound in {folder}")


def _show(preview: Preview, talker: Talker | None, task: str | None, columns: int, folder: Path | None) -> None:
    example = preview.example
    if example is None:
        out.print(pairs(f"{preview.source}: {preview.id}", _row_pairs(preview)))
        return
    out.print(pairs(f"{preview.source}: {preview.id}", _example_pairs(example)))
    if talker is None:
        return
    from anytalk.data.preview import around_answer, draw_example

    chosen = find_task(task or example.tasks[0])
    drawn = draw_example(talker, example, chosen)
    shown, first = around_answer(drawn, columns)
    show_grid(shown, out.width)
    note(
        f"task {chosen.name} ({chosen.summary}): {drawn.num_columns} steps, answer from step {drawn.num_prompt} on, "
        f"{int(drawn.learnt.sum())} tokens in the loss"
        + ("" if shown is drawn else f"; shown: {shown.num_columns} steps from {first} on")
    )
    if folder is not None:
        _write(preview, example, talker, chosen, folder)


def _example_pairs(example: Example) -> list[tuple[str, str]]:
    rows = [("tasks", ", ".join(example.tasks))]
    rows += [(f"before: {turn.role}", f"{turn.text or ''} {_clip(turn.clip)}".strip()) for turn in example.history]
    rows.append(("question", f"{example.question_text or '(no text)'} {_clip(example.clip)}".strip()))
    spoken = "" if example.codes is None else f"[{example.answer_s:.2f} s, {example.codes.shape[1]} frames]"
    rows.append(("answer", f"{example.answer_text or '(no text)'} {spoken}".strip()))
    return [*rows, ("voice", example.speaker or "-")]


def _clip(clip: Clip | None) -> str:
    return "" if clip is None else f"[{clip.duration_s:.2f} s, {clip.num_frames} frames]"


def _row_pairs(preview: Preview) -> list[tuple[str, str]]:
    from anytalk.plugins.contracts import Row

    rows = [] if preview.reason is None else [("left out", preview.reason)]
    if isinstance(preview.row, Row):
        row: Row = preview.row
        rows += [
            ("question", f"{row.question_text or '(no text)'} {_sound(row.question_audio)}".strip()),
            ("answer", f"{row.answer_text or '(no text)'} {_sound(row.answer_audio)}".strip()),
            ("voice", row.speaker or "-"),
            ("tasks", "all it can serve" if row.tasks is None else ", ".join(row.tasks)),
        ]
    return rows


def _sound(audio: Audio | None) -> str:
    from anytalk.grid.audio import sound_length_s, sound_name

    if audio is None:
        return ""
    try:
        length_s = sound_length_s(audio)
    except AudioError as error:
        return f"[{error.message}]"
    return f"[{sound_name(audio)}" + ("]" if length_s is None else f", {length_s:.2f} s]")


def _write(preview: Preview, example: Example, talker: Talker, task: Task, folder: Path) -> None:
    """Write a row's grid, spectrograms and sound to `folder`."""
    import torch

    from anytalk.data.preview import draw_example
    from anytalk.evaluate.spectrogram import draw_spectrogram
    from anytalk.grid.audio import write_wave
    from anytalk.grid.draw import draw_png

    # Ids may contain characters that file names can't.
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{preview.source}-{example.id}").strip("-.")[:80]
    draw_png(draw_example(talker, example, task), folder / f"{stem}-{task.name}.png", f"{example.id}: {task.summary}")
    encoder_hz = _question_rate_hz(example, talker)
    if example.clip is not None and example.clip.wave is not None:
        wave = example.clip.wave.numpy()
        write_wave(folder / f"{stem}-question.wav", wave, encoder_hz)
        draw_spectrogram(folder / f"{stem}-question.png", wave, encoder_hz, example.question_text or "question")
    if example.codes is not None:
        with torch.no_grad():
            codes = torch.from_numpy(example.codes)[None].to(talker.device)
            answer = talker.codec.decode(codes)[0].cpu().numpy()
        write_wave(folder / f"{stem}-answer.wav", answer, talker.codec.sample_rate_hz)
        title = example.answer_text or "answer"
        draw_spectrogram(folder / f"{stem}-answer.png", answer, talker.codec.sample_rate_hz, title)


def _question_rate_hz(example: Example, talker: Talker) -> int:
    """Return the sample rate of a question in Hz, computed from its length, because clips don't store it."""
    clip = example.clip
    if clip is None or clip.wave is None or clip.duration_s <= 0:
        return talker.codec.sample_rate_hz
    return round(len(clip.wave) / clip.duration_s)
