"""Turn a text set into texts that a voice can read: ``anytalk data clean``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anytalk.cli.render import commands, err, note, out, say, seconds, table
from anytalk.errors import ConfigError
from anytalk.plugins.registry import default_registry

if TYPE_CHECKING:
    from anytalk.text.clean import Tally
    from anytalk.text.rewrite import RewriteStep

_NOTE_EVERY_S = 10.0
_MODES = ("all", "failing")


def command(
    data: Path = typer.Argument(help="data.yaml, or a manifest (.jsonl, .csv)."),
    target: Path = typer.Option(..., "-o", "--out", help="Manifest to write; dropped rows go to OUT.dropped.jsonl."),
    rules: Path | None = typer.Option(None, help="YAML with limits; default: see docs/cleaning.md."),
    settings: list[str] = typer.Option([], "--set", help="One limit: max_answer_s=20. May be repeated."),
    rewrite: str | None = typer.Option(
        None, help="Rewrite answers for speech: 'all', or those 'failing' a rule. Needs --endpoint or --rewrite-with."
    ),
    endpoint: str | None = typer.Option(None, help="Base URL of an OpenAI-compatible API for rewriting."),
    model: str | None = typer.Option(None, help="Model at the endpoint."),
    key_env: str | None = typer.Option(
        None, help="Environment variable with the endpoint's key; default: OPENAI_API_KEY."
    ),
    rewrite_with: Path | None = typer.Option(None, help="Talker whose language model does the rewriting."),
    cache: Path | None = typer.Option(None, help="File of finished rewrites; default: OUT.rewrites.jsonl."),
    concurrency: int = typer.Option(4, min=1, help="Concurrent requests to the endpoint."),
    timeout_s: float = typer.Option(60.0, min=0.1, help="Longest wait for one reply, in seconds."),
    retries: int = typer.Option(5, min=0, help="Retries after rate limits, timeouts and server errors."),
) -> None:
    """Keep texts that can be spoken; drop or rewrite the others, with reasons."""
    # Wrong options fail before anything is loaded.
    _check(data, target, rewrite, endpoint, model, rewrite_with)
    with err.status("loading ..."):
        from anytalk.data.config import read_data_config, read_rows
        from anytalk.plugins.endpoint import read_key
        from anytalk.text.clean import Cleaner, clean_to_files, dropped_path, rows_of
        from anytalk.text.rules import read_rules

        limits = read_rules(rules, settings)
        config = read_data_config(data)
        registry = default_registry()
        key = read_key(key_env, "leave --key-env out") if endpoint else None
        step = None
        if rewrite:
            memory = cache or target.with_name(f"{target.name.removesuffix('.jsonl')}.rewrites.jsonl")
            step = _rewrite_step(rewrite, endpoint, model, key, rewrite_with, memory, concurrency, timeout_s, retries)
        # Blank texts are kept while reading: the rules drop them with a reason.
        sources = [read_rows(source, registry, keep_blank=True) for source in config.sources]
    with step or nullcontext(), _progress() as show:
        tally = clean_to_files(rows_of(sources), target, Cleaner(limits, step), show)
    _report(tally, step, target, dropped_path(target))


def _check(
    data: Path, target: Path, rewrite: str | None, endpoint: str | None, model: str | None, talker: Path | None
) -> None:
    """Refuse options that contradict each other."""
    if target.suffix != ".jsonl":
        raise ConfigError(f"'{target}' is not a .jsonl file", "the cleaned manifest is JSONL: -o clean.jsonl")
    if target.absolute() == data.absolute():
        raise ConfigError("the cleaned manifest would overwrite its own input", "give another -o")
    if rewrite is None:
        if endpoint or model or talker:
            raise ConfigError("--endpoint, --model and --rewrite-with need --rewrite", "add --rewrite all (or failing)")
        return
    if rewrite not in _MODES:
        raise ConfigError(f"--rewrite is '{rewrite}'", f"choose one of: {', '.join(_MODES)}")
    if (endpoint is None) == (talker is None):
        raise ConfigError(
            "--rewrite needs a model that rewrites", "give either --endpoint URL --model NAME or --rewrite-with TALKER"
        )
    if endpoint is not None and not model:
        raise ConfigError("--endpoint needs --model", "name a model that the endpoint offers")


def _rewrite_step(
    mode: str,
    endpoint: str | None,
    model: str | None,
    key: str | None,
    talker: Path | None,
    memory: Path,
    concurrency: int,
    timeout_s: float,
    retries: int,
) -> RewriteStep:
    from anytalk.text.rewrite import EndpointRewriter, RewriteCache, Rewriter, RewriteStep, TalkerRewriter

    rewriter: Rewriter
    if endpoint is not None:
        rewriter = EndpointRewriter(endpoint, model or "", key, concurrency, timeout_s, retries)
    else:
        from anytalk.model.talker import load_talker

        assert talker is not None
        rewriter = TalkerRewriter(load_talker(talker, with_encoder=False))
    return RewriteStep(rewriter, RewriteCache(memory), "all" if mode == "all" else "failing")


@contextmanager
def _progress() -> Iterator[_Shown]:
    """Show a running count on a terminal, or print a line every few seconds elsewhere."""
    shown = _Shown()
    if not err.is_terminal:
        yield shown
        return
    with err.status("cleaning ...") as status:
        shown.update = status.update
        yield shown


class _Shown:
    """Show the tally, at most five times a second on a terminal and every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.update: Callable[[str], None] = note
        self._next_s = time.monotonic() + _NOTE_EVERY_S

    def __call__(self, tally: Tally) -> None:
        on_terminal = self.update is not note
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + (0.2 if on_terminal else _NOTE_EVERY_S)
        self.update(f"cleaning: {tally.rows} rows read, {tally.kept} kept")


def _report(tally: Tally, step: RewriteStep | None, target: Path, dropped: Path) -> None:
    if tally.drops:
        counts = sorted(tally.drops.items(), key=lambda item: (-item[1], item[0]))
        rows = [[rule, str(number), f"{number / tally.rows:.1%}"] for rule, number in counts]
        out.print(table("Dropped", ["rule", "rows", "share"], rows, ["rows", "share"]))
    say(
        f"{tally.kept} of {tally.rows} rows kept ({tally.kept / tally.rows:.1%}), {tally.changed} of them rewritten or "
        f"spelled out; about {seconds(tally.spoken_s)} to say"
    )
    if step is not None:
        say(f"{tally.rewritten} answers rewritten: {step.asked} asked, {step.found} from {step.cache.path}")
    if tally.lost_sounds:
        note(f"{tally.lost_sounds} sounds were left out (no file of their own, or their answer was rewritten)")
    if tally.drops:
        note(f"reasons: {dropped}")
    commands("Type next", [f"anytalk voice {target} -o FOLDER", f"anytalk data preview {target} --talker TALKER"])
