"""Print what a user should know before the first question."""

from __future__ import annotations

from anytalk.cli.render import note
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import ServedBackbone


def note_at_start(talker: Talker, speaks: bool = True) -> None:
    """Print which endpoint gets the questions, and a warning if the voice was never trained."""
    backbone, help_for_voice = talker.model.backbone, "`anytalk train`"
    if isinstance(backbone, ServedBackbone):
        note(f"questions go to {backbone.title}")
        help_for_voice = "`anytalk attach --voice`"
    if talker.config.weights is None and speaks:
        note(f"this talker was never trained: its text is the base model's, its voice is noise ({help_for_voice})")
