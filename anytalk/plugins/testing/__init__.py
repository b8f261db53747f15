"""Checks contracts for plugin authors: call ``check_backbone("name")`` and its siblings in your tests.

Each takes a registered name, with the part's own `options` and the `registry` to look it up in (default: the installed
plugins), and checks its options too. Except for augmentations and hearings, it also takes a part that is already built.
It raises AssertionError with a sentence that says which promise of :mod:`anytalk.plugins.contracts` is broken.
"""

from anytalk.plugins.testing.adapters import check_heads, check_input_adapter, check_output_adapter
from anytalk.plugins.testing.augmentation import check_augmentation
from anytalk.plugins.testing.backbone import check_backbone
from anytalk.plugins.testing.codec import check_codec
from anytalk.plugins.testing.data import check_data_source
from anytalk.plugins.testing.ears import check_ears
from anytalk.plugins.testing.encoder import check_speech_encoder
from anytalk.plugins.testing.hearing import check_hearing
from anytalk.plugins.testing.options import check_options
from anytalk.plugins.testing.served import check_served_backbone

__all__ = [
    "check_augmentation",
    "check_backbone",
    "check_codec",
    "check_data_source",
    "check_ears",
    "check_heads",
    "check_hearing",
    "check_input_adapter",
    "check_options",
    "check_output_adapter",
    "check_served_backbone",
    "check_speech_encoder",
]
