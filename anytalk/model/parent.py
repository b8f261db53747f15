"""The parent: the text language model as it was before any stage of ours trained it."""

from __future__ import annotations

from typing import Any

from anytalk.errors import TalkerError
from anytalk.model.config import TalkerConfig
from anytalk.model.talker import Talker, fingerprint
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone
from anytalk.plugins.registry import Registry


def parent_ref(config: TalkerConfig, registry: Registry) -> PartRef:
    """Which backbone the talker was attached to, with all its options.

    A stage that trains the backbone changes the option ``model`` and nothing else; ``base`` holds what it was.

    Raises:
        TalkerError: a talker that doesn't say (one that was imported).
    """
    if config.base is None:
        raise TalkerError(
            "talker.yaml names no base model, so there is no parent to compare with",
            "leave out what needs the parent: distillation of a trained backbone, text_retention, cascade",
        )
    name, options = config.backbone.name, dict[str, Any](config.backbone.options)
    fields = registry.load("backbone", name).Options.model_fields
    makes_itself = config.base.model == name and not ("model" in fields and fields["model"].is_required())
    if makes_itself or "model" not in fields:
        options.pop("model", None)
    else:
        options["model"] = config.base.model
    if config.base.revision is not None and "revision" in fields:
        options["revision"] = config.base.revision
    return PartRef(name=name, options=options)


def load_parent(talker: Talker) -> Backbone:
    """Load the parent in float32 on the talker's device, frozen and in eval mode.

    Raises:
        TalkerError: no base model in talker.yaml, or one whose weights are not those that the talker was made from.
        AnytalkError: weights that can't be found.
    """
    config = talker.config
    ref = parent_ref(config, talker.registry)
    context = BuildContext(device=talker.device, folder=talker.folder)
    parent: Backbone = talker.registry.build("backbone", ref, context)
    parent = parent.to(talker.device).eval()
    assert config.base is not None
    found = fingerprint(parent)
    if found != config.base.fingerprint:
        raise TalkerError(
            f"the base model '{config.base.model}' has other weights (fingerprint {found}) than the one that the "
            f"talker was attached to ({config.base.fingerprint})",
            "restore that model or revision",
        )
    for parameter in parent.parameters():
        parameter.requires_grad_(False)
    return parent
