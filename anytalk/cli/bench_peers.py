"""Compare our decoder with llama.cpp's on the same file: ``anytalk bench peers``."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from anytalk.cli.devices import set_threads
from anytalk.cli.render import err, note, out, say, table


def command(
    model: str = typer.Argument(help="A GGUF file, as for `anytalk attach`."),
    arithmetic: list[str] = typer.Option(["int8"], help="Of our decoder. May be repeated."),
    prompt: int = typer.Option(24, min=1, help="Tokens of the prompt."),
    tokens: int = typer.Option(48, min=2, help="Tokens that are written."),
    repeats: int = typer.Option(3, min=1, help="Rounds of each that count; one more runs first."),
    threads: int = typer.Option(2, min=1, help="CPU threads of each."),
    through: str | None = typer.Option(
        None, help="A served backbone plugin that takes the file: its text is timed, too, as a talker gets it."
    ),
    json_file: Path | None = typer.Option(None, "--json", help="Also write all figures to this file."),
) -> None:
    """Compare milliseconds per token with llama.cpp (package xllamacpp); the two decoders run in turn."""
    with err.status("loading torch and the model ...") as status, TemporaryDirectory() as place:
        from anytalk.bench.peers import (
            PEER,
            Contestant,
            LlamaCpp,
            Ours,
            Through,
            chat_of,
            compare,
            has_peer,
            prompt_of,
            whole_file,
        )
        from anytalk.plugins.sources import resolve

        set_threads(threads)
        file = whole_file(resolve(model), Path(place))
        contestants: dict[str, Contestant] = {}
        for name in arithmetic:
            contestants[name] = ours = Ours(model, Path(place) / name, name)
        asked = prompt_of(ours.tokenizer, prompt)
        if through is not None:
            # A served model takes messages: the others get the tokens of the same one.
            question = ours.tokenizer.decode(asked)
            asked = chat_of(ours.tokenizer, question)
            contestants[through] = Through(through, model, question, ours.tokenizer)

        def told(what: str) -> None:
            status.update(f"{what} ...")

        system = None
        if has_peer():
            # The context holds the prompt and the answer, with a few tokens to spare.
            with LlamaCpp(file, len(asked) + tokens + 8, threads) as peer:
                system = peer.system
                figures = compare({"llama.cpp": peer, **contestants}, asked, tokens, repeats, told)
        else:
            figures = compare(contestants, asked, tokens, repeats, told)
    figures |= {"model": model, "threads": threads, "peer_system": system}
    show(figures)
    if system is None:
        note(f"llama.cpp was left out: pip install {PEER}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table, with ratios to llama.cpp's if it was measured."""
    say(
        f"{figures['threads']} threads, load average {figures['load_average']:.1f}; a prompt of {figures['prompt']} "
        f"tokens, {figures['tokens']} written; medians; ratios to llama.cpp's"
    )
    base = figures["of"].get("llama.cpp")
    rows = [
        (
            name,
            *(
                _time(found[figure], None if base is None else base[figure])
                for figure in ("token_ms", "prompt_ms", "token_processor_ms", "prompt_processor_ms")
            ),
            str(found["same_tokens"]),
        )
        for name, found in figures["of"].items()
    ]
    columns = ("who", "token, ms", "prompt, ms", "token, processor", "prompt, processor", "tokens as the first")
    out.print(table("beside llama.cpp", columns, rows, numbers=columns[1:]))
    if figures["peer_system"] is not None:
        note(f"llama.cpp: {figures['peer_system']}")


def _time(found: float | None, base: float | None) -> str:
    if found is None:
        return "-"
    return f"{found:.1f}" + ("" if base is None else f" ({found / max(base, 1e-9):.2f})")
