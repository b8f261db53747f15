"""A served model whose text the test writes itself, and talkers whose voice speaks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

from talkers import CODES, STREAMS

from anytalk.model.assemble import assemble
from anytalk.model.config import TalkerConfig
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import ServedBackbone, TextRequest, TextStream
from anytalk.plugins.registry import default_registry

VOICE = {"width": 64, "num_layers": 1, "letter_width": 64, "num_letter_layers": 1}


class Scripted(ServedBackbone):
    """Answers by a function that is called in a thread of its own with the request and the stream."""

    def __init__(self, script: Callable[[TextRequest, TextStream], None]) -> None:
        super().__init__()
        self.script = script
        self.asked: list[TextRequest] = []
        self.cancelled = 0

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        raise NotImplementedError

    @property
    def title(self) -> str:
        return "a script"

    def answer(self, request: TextRequest) -> TextStream:
        self.asked.append(request)
        stream = TextStream(self._cancel)
        threading.Thread(target=self.script, args=(request, stream), daemon=True).start()
        return stream

    def _cancel(self) -> None:
        self.cancelled += 1


def served_talker(backbone: ServedBackbone | None = None, adapter: str = "talker", **changes: Any) -> Talker:
    """A talker with a small untrained voice; its configuration names the tiny backbone, which isn't built."""
    config = TalkerConfig.model_validate(
        {
            "backbone": {"name": "tiny"},
            "encoder": None,
            "input_adapter": None,
            "output_adapter": {"name": adapter, "options": VOICE if adapter == "talker" else {}},
            "heads": {"name": "parallel"},
            "codec": {"name": "tiny", "options": {"num_streams": STREAMS, "codebook_size": CODES}},
            "grid": {"codec_streams": STREAMS, "codebook_size": CODES},
            **changes,
        }
    )
    registry = default_registry()
    return Talker(config, assemble(config, registry, backbone=backbone), registry)


def slowly(*pieces: str, pause_s: float = 0.01, **end: Any) -> Callable[[TextRequest, TextStream], None]:
    """A script that writes these pieces, and ends."""

    def script(_: TextRequest, stream: TextStream) -> None:
        for piece in pieces:
            time.sleep(pause_s)
            stream.put(piece)
        time.sleep(pause_s)
        stream.end(**end)

    return script
