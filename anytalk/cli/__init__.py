"""The command line: ``anytalk COMMAND``. Nothing here imports torch before a command needs it."""

from anytalk.cli.app import main

__all__ = ["main"]
