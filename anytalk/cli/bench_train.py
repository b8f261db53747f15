"""Time the training loop against the bare backbone: ``anytalk bench train``."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import typer

from anytalk.cli.devices import set_threads
from anytalk.cli.render import err, out, say, table

_COLUMNS = ("stage", "positions", "loop, steps/s", "floor, steps/s", "loop / floor", "from .. to", "padding")


def command(
    model: str | None = typer.Option(None, help="Language model, as for `anytalk attach`; needed unless --tiny."),
    tiny: bool = typer.Option(False, "--tiny", help="Random tiny parts, to see that it runs. Ratios mean nothing."),
    stage: list[str] = typer.Option(
        [], help="Stage of recipe paper: alignment, adaption, multimodal; default: all. May be repeated."
    ),
    steps: int = typer.Option(9, min=1, help="Measured steps of each stage."),
    rows: int = typer.Option(8, min=1, help="Rows per step."),
    positions: int = typer.Option(2048, min=64, help="Most positions per pass."),
    seed: int = typer.Option(0, help="Seed of rows and new parts."),
    json_file: Path | None = typer.Option(None, "--json", help="Also write all figures to this file."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
) -> None:
    """Time steps of the training loop, and the bare modules on the same tokens: the least that any loop takes."""
    with err.status("loading torch and the talker ...") as status:
        import torch

        from anytalk.bench.training import STAGES, cells, make_examples, make_stage, make_talker, measure_time
        from anytalk.errors import ConfigError, did_you_mean
        from anytalk.model.talker import load_talker

        if (model is None) != tiny:
            raise ConfigError("exactly one of --model and --tiny is expected", "give --model MODEL, or --tiny")
        unknown = [name for name in stage if name not in STAGES]
        if unknown:
            raise ConfigError(
                f"recipe paper has no stage '{unknown[0]}'{did_you_mean(unknown[0], list(STAGES))}",
                f"stages: {', '.join(STAGES)}",
            )
        set_threads(threads)
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as temporary:
            folder = make_talker(Path(temporary) / "talker", model)
            examples = make_examples(load_talker(folder, with_encoder=False), 16 * rows, seed)
            figures = []
            for name in stage or STAGES:
                status.update(f"stage {name} ...")
                figures.append(measure_time(folder, make_stage(name, steps, rows, positions), examples))
    what = model or "tiny random parts"
    say(f"{what}, {rows} rows a step, {torch.get_num_threads()} thread(s), load average {os.getloadavg()[0]:.1f}")
    out.print(table("training", _COLUMNS, [cells(figure) for figure in figures], numbers=_COLUMNS[1:]))
    if json_file is not None:
        json_file.write_text(
            json.dumps({"figures": figures, "torch": torch.__version__}, indent=1) + "\n", encoding="utf-8"
        )
