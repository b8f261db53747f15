"""Loads the parent: the text language model as it was before any stage trained it."""

from __future__ import annotations

from anytalk.errors import TalkerError
from anytalk.model.talker import Talker, check_base
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone


def load_parent(talker: Talker) -> Backbone:
    """Load the parent in float32 on the talker's device, frozen and in eval mode.

    Raises:
        TalkerError: talker.yaml names no base model, or the base weights have changed since the talker was attached.
        AnytalkError: The weights can't be found.
    """
    config = talker.config
    if config.base is None:
        raise TalkerError(
            "talker.yaml names no base model, so there is no parent to compare with",
            "leave out what needs the parent: distillation of a trained backbone, text_retention, cascade",
        )
    context = BuildContext(device=talker.device, folder=talker.folder)
    parent: Backbone = talker.registry.build("backbone", config.backbone, context)
    parent = parent.to(talker.device).eval()
    check_base(config, parent)
    for parameter in parent.parameters():
        parameter.requires_grad_(False)
    return parent
