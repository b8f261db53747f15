"""Import the released Mini-Omni checkpoint as a talker: ``anytalk import-mini-omni``."""

from __future__ import annotations

from pathlib import Path

import typer

from anytalk.cli.render import commands, err, say
from anytalk.errors import WeightsError


def command(
    folder: Path = typer.Argument(help="Folder of the released checkpoint (lit_model.pth, model_config.yaml ...)."),
    out_folder: Path = typer.Option(..., "-o", "--out", help="Talker folder to write."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing talker."),
) -> None:
    """Turn the released Mini-Omni checkpoint into a talker."""
    if not folder.is_dir():
        raise WeightsError(
            f"'{folder}' is not a folder", "download gpt-omni/mini-omni from the hub and name its folder"
        )
    with err.status("importing (loading torch) ..."):
        from anytalk.model.mini_omni import import_mini_omni

        talker = import_mini_omni(folder, out_folder, overwrite=overwrite)
    say(f"imported to {talker.folder or out_folder}")
    commands("Type next", [f"anytalk talk {out_folder} question.wav -o answer.wav", f"anytalk info {out_folder}"])
