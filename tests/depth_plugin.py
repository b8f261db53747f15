"""A plugin with a route of its own: streams are chosen one after the other, each given those before it.

A depth transformer over the codebooks (Moshi, arXiv 2410.00037; CSM) in its smallest form: what a stream's logits know
of the streams before it is the sum of their embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from anytalk.plugins import Component, hookimpl
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import (
    Answers,
    BackboneStates,
    Cache,
    Columns,
    Embedded,
    Hidden,
    Lane,
    Layout,
    Line,
    Merged,
    OutputAdapter,
    Route,
    Spoken,
    StreamLogits,
)


@hookimpl
def register_output_adapters() -> list[Component]:
    return [Component("depth", "depth_plugin:DepthAdapter", "streams one after the other")]


class DepthAdapter(OutputAdapter):
    """The matrices of the route."""

    def __init__(self, width: int, num_streams: int, vocab_size: int) -> None:
        super().__init__()
        self._width = width
        self.chosen = nn.Parameter(torch.randn(num_streams, vocab_size, width))
        self.heads = nn.Parameter(torch.randn(num_streams, vocab_size, width))

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> DepthAdapter:
        return cls(context.need_backbone().width, context.num_streams, context.stream_vocab_size)

    @property
    def width(self) -> int:
        return self._width

    def new_cache(self, batch_size: int, max_steps: int) -> None:
        return None

    def own_route(self) -> Route:
        return DepthRoute()


class Depth:
    """One column's logits."""

    def __init__(self, adapter: DepthAdapter, hidden: Tensor) -> None:
        self.adapter, self.hidden = adapter, hidden

    def of(self, stream: int, chosen: Sequence[int]) -> Tensor:
        before = [self.adapter.chosen[k, token] for k, token in enumerate(chosen)]
        return torch.stack([self.hidden, *before]).sum(dim=0)[None] @ self.adapter.heads[stream].T


class DepthRoute(Route):
    """Audio goes through the backbone; a column's streams are read off its states one after the other."""

    num_rows = 2
    reads_prompt = False

    def seen(self, layout: Layout) -> slice:
        return slice(None)

    def needs_backbone(self, writes: bool) -> bool:
        return True

    def merge(self, line: Line, parts: Embedded) -> Merged:
        merged = parts.text + parts.audio
        return Merged(merged if parts.speech is None else merged + parts.speech, None)

    def prefill(self, line: Line, states: BackboneStates, prompt: Columns, cache: Cache | None) -> Tensor:
        return states.normed

    def step(self, line: Line, columns: Columns, backbone: Lane, adapter: Lane) -> Hidden:
        found = backbone.run(lambda cache, x: cast("BackboneStates", line.backbone(x, cache)), columns.merged.backbone)
        states = BackboneStates(*found)
        return Hidden(states, states.normed)

    def train(self, line: Line, answers: Answers, states: BackboneStates | None, always: bool = False) -> Spoken:
        assert states is not None
        return Spoken(states.normed, answers.tokens, answers.loss_mask)

    def logits(self, line: Line, hidden: Tensor, tokens: Tensor) -> Tensor:
        adapter = cast("DepthAdapter", line.output_adapter)
        streams = torch.arange(len(tokens))[:, None]
        before = adapter.chosen[streams, tokens].cumsum(dim=0) - adapter.chosen[streams, tokens]
        return torch.einsum("knw,kvw->knv", hidden + before, adapter.heads)

    def choices(self, line: Line, hidden: Tensor) -> Sequence[StreamLogits]:
        return [Depth(cast("DepthAdapter", line.output_adapter), row[0]) for row in hidden]
