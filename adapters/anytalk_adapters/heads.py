"""Turns hidden states (B,T,W) into logits (B,K,T,C+specials) of all K streams at once: the audio heads.

``parallel`` has a matrix of its own (arXiv 2408.16725, section 3.1). ``shared`` multiplies by the audio embeddings,
like the tied ``lm_head`` of the released Mini-Omni.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import AudioTables, Heads

INIT_STD = 0.02
"""Standard deviation of initial weights, as in GPT-2 and Qwen2."""


def _grid_of(context: BuildContext) -> tuple[int, int]:
    """Return K and C+specials (ConfigError: the grid isn't known yet)."""
    if context.num_streams < 1 or context.stream_vocab_size < 1:
        raise ConfigError(
            f"audio heads need the grid before them, got num_streams={context.num_streams} and "
            f"stream_vocab_size={context.stream_vocab_size}",
            "set `codec:` in talker.yaml, and build parts through assemble()",
        )
    return context.num_streams, context.stream_vocab_size


class ParallelHeads(Heads):
    """Multiplies by one matrix, of which rows ``k * (C+specials)`` to ``(k+1) * (C+specials)`` belong to stream k."""

    licence = "MIT"

    class Options(plugins.Options):
        """``parallel`` has no options."""

    def __init__(self, width: int, num_streams: int, stream_vocab_size: int) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.linear = nn.Linear(width, num_streams * stream_vocab_size, bias=False)
        nn.init.normal_(self.linear.weight, std=INIT_STD)

    @classmethod
    def build(cls, options: ParallelHeads.Options, context: BuildContext) -> ParallelHeads:
        num_streams, stream_vocab_size = _grid_of(context)
        return cls(context.need_audio_width(), num_streams, stream_vocab_size).to(context.device)

    def forward(self, hidden: Tensor, tables: AudioTables) -> Tensor:
        """Compute logits (B,K,T,C+specials) of (B,T,W); `tables` is not used."""
        logits: Tensor = self.linear(hidden.to(self.linear.weight.dtype))
        # (B,T,K*V) -> (B,T,K,V) -> (B,K,T,V)
        return logits.view(*hidden.shape[:2], self.num_streams, -1).transpose(1, 2)


class SharedHeads(Heads):
    """Multiplies by embeddings: ``logits[k] = hidden @ rows[k].T``.

    Tied heads have no parameters and learn through the audio embeddings; untied ones have ``rows`` (K,C+specials,W).
    """

    licence = "MIT"

    class Options(plugins.Options):
        tied: bool = Field(True, description="Share the audio embedding rows; false: separate rows.")

    def __init__(self, rows: nn.Parameter | None) -> None:
        super().__init__()
        self.rows = rows

    @classmethod
    def build(cls, options: SharedHeads.Options, context: BuildContext) -> SharedHeads:
        num_streams, stream_vocab_size = _grid_of(context)
        if options.tied:
            return cls(None)
        rows = torch.empty(num_streams, stream_vocab_size, context.need_audio_width())
        return cls(nn.Parameter(nn.init.normal_(rows, std=INIT_STD))).to(context.device)

    def forward(self, hidden: Tensor, tables: AudioTables) -> Tensor:
        """Compute logits (B,K,T,C+specials) of (B,T,W), with codes before special tokens."""
        if self.rows is not None:
            return _read(hidden, self.rows)
        # Joining the logits copies less than joining the tables, which would be copied in every step.
        return torch.cat([_read(hidden, tables.codes), _read(hidden, tables.specials)], dim=-1)


def _read(hidden: Tensor, rows: Tensor) -> Tensor:
    """Multiply (B,T,W) by rows (K,R,W) to (B,K,T,R)."""
    # b: batch, t: step, d: width, k: stream, r: row
    return torch.einsum("btd,krd->bktr", hidden.to(rows.dtype), rows)
