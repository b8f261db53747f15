"""Serve a talker as a web page and an OpenAI-compatible API: ``anytalk serve``."""

from __future__ import annotations

from pathlib import Path

import typer

from anytalk.cli.devices import choose_device, set_threads
from anytalk.cli.render import loading, note
from anytalk.model.config import read_config
from anytalk.plugins.optional import require
from anytalk.serve.settings import ServeSettings, open_socket

_NEEDED = ("fastapi", "uvicorn", "websockets", "silero_vad", "onnxruntime", "prometheus_client", "multipart")


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    host: str = typer.Option("127.0.0.1", help="Address to bind to; any but the loopback address needs an API key."),
    port: int = typer.Option(8000, min=0, max=65535, help="TCP port; 0 takes a free one."),
    api_key: str | None = typer.Option(
        None,
        envvar="ANYTALK_API_KEY",
        show_envvar=True,
        help="Key that clients must send; safer in the environment variable.",
    ),
    tls_cert: Path | None = typer.Option(None, help="Certificate chain (PEM), for https; with --tls-key."),
    tls_key: Path | None = typer.Option(None, help="Private key (PEM); with --tls-cert."),
    allow_origin: list[str] = typer.Option([], help="Origin of web pages that may call this server. May be repeated."),
    proxy: list[str] = typer.Option([], help="Address or network of a trusted proxy (its X-Forwarded-For is used)."),
    max_sessions: int = typer.Option(8, min=1, help="Most conversations and HTTP answers at the same time."),
    max_turn_seconds: float = typer.Option(
        30.0, min=1, help="Longest spoken question, in seconds; the encoder may accept less."
    ),
    max_columns: int = typer.Option(512, min=1, help="Longest answer, in grid columns."),
    idle_seconds: float = typer.Option(300.0, min=1, help="Seconds until a silent session ends."),
    session_seconds: float = typer.Option(3600.0, min=1, help="Seconds until any session ends."),
    requests_per_minute: int = typer.Option(600, min=1, help="HTTP requests and new sessions per address."),
    stride: int = typer.Option(2, min=1, help="Codec frames per chunk of sound: more is cheaper, fewer is sooner."),
    arithmetic: str = typer.Option(
        "auto",
        help="exact, fused, packed, int8 or int4 (see `anytalk bench precision`); auto: what the talker says, but "
        "packed instead of exact on CPUs for backbones that know it.",
    ),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads of the model."),
) -> None:
    """Serve a talker: a web page, and an OpenAI-compatible API (Realtime, speech, transcriptions, chat)."""
    config = read_config(folder)
    settings = ServeSettings(
        host=host,
        port=port,
        api_key=api_key,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow_origins=tuple(origin.rstrip("/") for origin in allow_origin),
        proxies=tuple(proxy),
        max_sessions=max_sessions,
        max_turn_s=max_turn_seconds,
        max_columns=max_columns,
        idle_s=idle_seconds,
        session_s=session_seconds,
        requests_per_minute=requests_per_minute,
        stride_frames=stride,
    )
    require("serving", "serve", *_NEEDED)
    # The port is opened first: if it is taken, the user learns that before the model loads.
    with open_socket(settings) as listening:
        with loading():
            from anytalk.cli.notes import note_at_start
            from anytalk.decode.ready import make_talker_ready
            from anytalk.model.talker import load_talker
            from anytalk.serve.app import make_app
            from anytalk.serve.heap import settle
            from anytalk.serve.ready import arithmetic_for_many
            from anytalk.serve.run import run_server
            from anytalk.serve.warm_up import warm_up

            set_threads(threads)
            talker = load_talker(folder, device=choose_device(device), with_encoder=config.hears)
            make_talker_ready(talker, arithmetic_for_many(talker, arithmetic))
            _ = talker.codec  # loads the codec now, not with the first answer
            app = make_app(talker, settings, folder.resolve().name)
        # The first answer is slower than later ones, so no client should be the one to wait for it.
        with loading("answering a first question ..."):
            warm_up(app.state.server)
        note_at_start(talker)
        settle()
        _announce(settings, listening.getsockname()[1])
        run_server(app, settings, listening)
    note("stopped")


def _announce(settings: ServeSettings, port: int) -> None:
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"page  {settings.scheme}://{name}:{port}/")
    typer.echo(f"API   {settings.scheme}://{name}:{port}/v1")
    if settings.is_local:
        note("only this machine can reach it; browsers give the microphone to localhost and to https")
    elif settings.tls_cert is None:
        note(
            "browsers give the microphone only to https or localhost: other machines can type, but not speak;"
            " add --tls-cert and --tls-key, and the key crosses the network unencrypted without them"
        )
    else:
        note("browsers give the microphone to https only if they trust the certificate")
    note("Ctrl-C stops")
