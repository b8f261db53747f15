"""Declares the hooks that a plugin may implement: signatures with a sentence each, no bodies, no torch.

A plugin is a module that an entry point of the group ``anytalk`` names. It implements any of these functions, marked
with :data:`hookimpl`. The ``register_*`` hooks return lists of :class:`~anytalk.plugins.components.Component`; a
component's class is imported only when it is built. Observers only watch: what they return is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from anytalk.plugins.components import Component

if TYPE_CHECKING:
    import typer

PROJECT = "anytalk"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """Declares the hooks that anytalk calls."""

    @hookspec
    def register_backbones(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer text language models: classes that implement ``contracts.Backbone``."""

    @hookspec
    def register_speech_encoders(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer encoders from sound to features: classes that implement ``contracts.SpeechEncoder``."""

    @hookspec
    def register_input_adapters(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer maps from encoder features to backbone embeddings: ``contracts.InputAdapter``."""

    @hookspec
    def register_ears(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer speech recognisers that write what a user said: classes that implement ``contracts.Ears``."""

    @hookspec
    def register_hearings(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer ways to choose between what may have been heard: classes that implement ``contracts.Hearing``."""

    @hookspec
    def register_output_adapters(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer parts between the backbone and the audio heads: ``contracts.OutputAdapter``."""

    @hookspec
    def register_heads(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer parallel audio heads: ``contracts.Heads``."""

    @hookspec
    def register_codecs(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer codecs, which turn sound into codes and back: ``contracts.Codec``."""

    @hookspec
    def register_voices(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer voices for any backbone, as data: each target is the path of a voice folder (``pack --voice-only``)."""

    @hookspec
    def register_synthesizers(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer text-to-speech engines that make training speech: ``contracts.Synthesizer``."""

    @hookspec
    def register_transcribers(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer speech recognisers that judge answers: ``contracts.Transcriber``."""

    @hookspec
    def register_recipes(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer lists of training stages as data: each target is a dict that ``train.config.Recipe`` accepts."""

    @hookspec
    def register_data_sources(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer readers of training rows: classes that implement ``contracts.DataSource``."""

    @hookspec
    def register_augmentations(self) -> list[Component]:  # type: ignore[empty-body]
        """Offer ways to change how a spoken question sounds: classes that implement ``contracts.Augmentation``."""

    @hookspec
    def register_commands(self, cli: typer.Typer) -> None:
        """Add subcommands to the ``anytalk`` command line."""

    @hookspec
    def stage_started(self, stage: str, report: dict[str, Any]) -> None:
        """Observe the start of a training stage; `report` has trainable and total parameters by part name."""

    @hookspec
    def step_logged(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Observe a training step that was logged; `metrics` has losses, learning rate and speed."""

    @hookspec
    def stage_finished(self, stage: str, folder: Path) -> None:
        """Observe the end of a training stage, which is saved in `folder` (the talker)."""
