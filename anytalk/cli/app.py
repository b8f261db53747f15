"""Build the ``anytalk`` program: its commands, its global options and the way it prints errors."""

from __future__ import annotations

import errno
import importlib
import io
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from anytalk.cli.render import complain, note
from anytalk.errors import AnytalkError, PluginError
from anytalk.plugins.manager import NO_PLUGINS_VARIABLE, Plugins, one_line
from anytalk.plugins.omp import wait_briefly
from anytalk.plugins.registry import default_registry

_COMMANDS = {
    "attach": "Attach ears and a voice to a language model and write a talker folder.",
    "train": "Train a talker in stages. Ctrl-C stops; the same command resumes.",
    "talk": "Ask a talker a question; print and play the answer while it is generated.",
    "serve": "Serve a talker: a web page, and an OpenAI-compatible API (Realtime, speech, transcriptions, chat).",
    "info": "Show a talker's parts, training history and licences.",
    "pack": "Write a talker folder for sharing: trained parts in half precision, curves, no checkpoints.",
    "voices": "List installed voices, for `attach --voice`.",
    "plugins": "List installed parts, or the options of one.",
    "layout": "Draw the token grid of a task; learnt tokens are in [ ].",
    "prepare": "Turn data.yaml into shards: read, voice, encode, filter. Run again to resume.",
    "data": "Preview, count and clean training data.",
    "eval": "Measure a talker: hearing, speech, lost ability of its parent, speed.",
    "bench": "Measure speed: start, decoding, arithmetic, training.",
    "voice": "Read a text set aloud and write a training manifest. Run again to resume.",
    "transcribe": "Transcribe a sound file; with --reference, count wrong words.",
    "import-mini-omni": "Turn the released Mini-Omni checkpoint into a talker.",
    "cache": "List or clear cached weights, which make talkers start fast.",
    "doctor": "Report installed packages, reachable services and settings that would be slow.",
}
"""Maps each command to its help text. The module of that name has a function ``command`` or a Typer ``group``."""

# Some versions of typer export only subclasses of this class.
_CLICK_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_NOT_ERRORS = (typer.Exit, typer.Abort, _CLICK_ERROR, BrokenPipeError)


class AnytalkGroup(TyperGroup):
    """Run a command and print its errors as sentences instead of tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with status 1 after an error and 130 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except _NOT_ERRORS:
            raise
        except KeyboardInterrupt:
            note("interrupted; nothing half-written was left")
            raise typer.Exit(130) from None
        except AnytalkError as error:
            if ctx.params.get("debug"):
                raise
            complain(error.message, error.hint)
        except (OSError, MemoryError) as error:  # of the machine, and not of any code
            if ctx.params.get("debug"):
                raise
            complain(*_of_the_machine(error))
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            complain(
                f"this is a bug of anytalk or of one of its plugins: {one_line(error)}",
                "run again with --debug in front of the command to see where: anytalk --debug ...",
            )
        raise typer.Exit(1)


def _of_the_machine(error: OSError | MemoryError) -> tuple[str, str]:
    """Return what the machine lacks or forbids, and a hint."""
    if isinstance(error, MemoryError):
        return "there is not enough memory", "close other programs, or take a smaller model, batch or file"
    place = "" if error.filename is None else f"'{error.filename}': "
    hints = {
        errno.ENOSPC: "make room on the disk, or choose another place",
        errno.EACCES: "may you read and write there? Choose another place, or change its permissions",
        errno.EROFS: "choose a place that can be written",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EMFILE: "allow more open files: ulimit -n 4096",
    }
    hint = hints.get(error.errno or 0, "does the place exist, and may you use it?")
    return f"{place}{' '.join((error.strerror or one_line(error)).split())}", hint


def _show_version(wanted: bool) -> None:
    if wanted:
        from anytalk import __version__

        typer.echo(f"anytalk {__version__}")
        raise typer.Exit


def _global_options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    no_plugins: bool = typer.Option(False, "--no-plugins", help="Load no plugins of other packages."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Give any language model ears and a voice: attach speech, train it in stages, talk. Every part is a plugin."""
    if no_plugins:
        os.environ[NO_PLUGINS_VARIABLE] = "1"
        # The cached registry may hold plugins that were loaded before the option was read.
        default_registry.cache_clear()


def build_app(plugins: Plugins | None = None, only: str | None = None) -> typer.Typer:
    """Build the program with the commands of all plugins; a plugin that fails here is listed by ``anytalk plugins``.

    Args:
        plugins: Plugins whose commands are added. Default: those of the default registry.
        only: Import the module of this command alone; ``--help`` still lists the others. None imports all.
    """
    app = typer.Typer(
        name="anytalk",
        cls=AnytalkGroup,
        no_args_is_help=True,
        # AnytalkGroup prints errors itself.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name, summary in _COMMANDS.items():
        found = _load(name) if only in (None, name) else _not_loaded
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, help=summary)
        else:
            app.command(name, help=summary)(found)
    _add_plugin_commands(app, plugins or default_registry().plugins)
    return app


def _load(name: str) -> Callable[..., None] | typer.Typer:
    module = importlib.import_module(f"anytalk.cli.{name.replace('-', '_')}")
    found: Callable[..., None] | typer.Typer = getattr(module, "group", None) or module.command
    return found


def _not_loaded() -> None:
    """Fill the place of a command whose module wasn't imported."""


def _add_plugin_commands(app: typer.Typer, plugins: Plugins) -> None:
    for implementation in plugins.manager.hook.register_commands.get_hookimpls():
        before = len(app.registered_commands), len(app.registered_groups)
        added = False
        with plugins.asking(implementation.plugin_name, "register_commands"):
            implementation.function(cli=app)
            _check_names(app, before[0])
            # typer checks a command's signature only when it builds the program, which is too late to blame the plugin.
            typer.main.get_command(app)
            added = True
        if not added:
            # A plugin may fail after its first commands were added.
            del app.registered_commands[before[0] :], app.registered_groups[before[1] :]


def _check_names(app: typer.Typer, first: int) -> None:
    """Raise PluginError for a command whose name another command already has."""
    names = [c.name or (c.callback.__name__.replace("_", "-") if c.callback else "") for c in app.registered_commands]
    for name in names[first:]:
        if names.count(name) > 1:
            raise PluginError(f"there is already a command '{name}'")


def main() -> None:
    """Run the program with the arguments of the process."""
    wait_briefly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    options = list(itertools.takewhile(lambda argument: argument.startswith("-"), sys.argv[1:]))
    if "--no-plugins" in options:  # plugins add their commands before typer reads any option
        os.environ[NO_PLUGINS_VARIABLE] = "1"
    rest = sys.argv[1 + len(options) :]
    # Importing one command's module keeps the start short, but shell completion needs the options of all of them.
    completes = any(name.endswith("_COMPLETE") for name in os.environ)
    build_app(only=None if completes else rest[0] if rest else "")()
