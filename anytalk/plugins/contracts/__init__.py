"""Holds the contracts of all parts and the types that parts exchange; import these names only from here.

Shapes use these letters: B batch, T steps (LM positions), K audio streams, S = K+1 streams (audio, then text),
D backbone width, W width of what the audio heads read, F encoder frames, E encoder width, N samples, V text
vocabulary, C codes per codebook. Token ids are int64, waves mono float32 in [-1, 1].

Every part class has a nested ``Options`` (:class:`~anytalk.plugins.components.Options`) and a class method
``build(options, context)``. Parts keep no state between calls: what they remember is in a cache that they are given.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anytalk.plugins.contracts.data import (
    MANIFEST_FIELDS,
    Audio,
    Augmentation,
    BadRow,
    CodecCodes,
    DataSource,
    Message,
    Row,
    Sound,
    Synthesizer,
    Transcriber,
    strict_rows,
)
from anytalk.plugins.contracts.part import Part

if TYPE_CHECKING:
    from anytalk.plugins.contracts.ears import (
        Ears,
        Heard,
        HeardBatch,
        HeardWord,
        Hearing,
        HearsTokens,
        Hints,
        TakesHints,
        TimesWords,
    )
    from anytalk.plugins.contracts.losses import ForwardPass, Loss, LossRow
    from anytalk.plugins.contracts.parts import (
        Backbone,
        BackboneAdapter,
        Codec,
        Heads,
        InputAdapter,
        OutputAdapter,
        SpeechDecoder,
        SpeechEncoder,
        torch_dtype,
    )
    from anytalk.plugins.contracts.routes import (
        Answers,
        Columns,
        Embedded,
        GridBatch,
        Hidden,
        Lane,
        Layout,
        Line,
        Merged,
        ParallelLogits,
        Route,
        Spoken,
        StreamLogits,
        Told,
    )
    from anytalk.plugins.contracts.served import ServedBackbone, TextRequest, TextStream
    from anytalk.plugins.contracts.values import (
        END_OF_TEXT,
        NO_TEXT,
        Arithmetic,
        AudioTables,
        BackboneStates,
        Cache,
        CodecStream,
        ForgetfulCache,
        JoinableCache,
        MakesReady,
        Peaks,
        TextTokenizer,
    )

__all__ = [
    "END_OF_TEXT",
    "MANIFEST_FIELDS",
    "NO_TEXT",
    "Answers",
    "Arithmetic",
    "Audio",
    "AudioTables",
    "Augmentation",
    "Backbone",
    "BackboneAdapter",
    "BackboneStates",
    "BadRow",
    "Cache",
    "Codec",
    "CodecCodes",
    "CodecStream",
    "Columns",
    "DataSource",
    "Ears",
    "Embedded",
    "ForgetfulCache",
    "ForwardPass",
    "GridBatch",
    "Heads",
    "Heard",
    "HeardBatch",
    "HeardWord",
    "Hearing",
    "HearsTokens",
    "Hidden",
    "Hints",
    "InputAdapter",
    "JoinableCache",
    "Lane",
    "Layout",
    "Line",
    "Loss",
    "LossRow",
    "MakesReady",
    "Merged",
    "Message",
    "OutputAdapter",
    "ParallelLogits",
    "Part",
    "Peaks",
    "Route",
    "Row",
    "ServedBackbone",
    "Sound",
    "SpeechDecoder",
    "SpeechEncoder",
    "Spoken",
    "StreamLogits",
    "Synthesizer",
    "TakesHints",
    "TextRequest",
    "TextStream",
    "TextTokenizer",
    "TimesWords",
    "Told",
    "Transcriber",
    "strict_rows",
    "torch_dtype",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use: rows and data sources are read without it."""
    if name in __all__:
        for module in ("values", "parts", "ears", "routes", "losses", "served"):
            loaded = importlib.import_module(f"{__name__}.{module}")
            if hasattr(loaded, name):
                return getattr(loaded, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
