"""Turns backbone states (B,T,D) into the input (B,T,D) of the audio heads: the output adapters.

``blocks`` is the paper's TTS adapter (arXiv 2408.16725, section 3.1): six more transformer blocks, which start before
the backbone's final norm. ``none`` is what the released Mini-Omni has.
"""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field
from torch import Tensor, nn

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneAdapter, BackboneStates, Cache


class BlocksAdapter(BackboneAdapter):
    """Runs more causal blocks of the backbone's own kind, with a final norm of their own."""

    licence = "MIT"

    class Options(plugins.Options):
        num_blocks: int = Field(6, ge=1, description="Number of blocks (the paper: 6).")
        init: Literal["fresh", "copy"] = Field(
            "fresh", description="Start from the model's own initialisation, or from its last blocks."
        )

    def __init__(self, blocks: nn.Module, width: int) -> None:
        super().__init__()
        self.blocks = blocks
        self._width = width

    @classmethod
    def build(cls, options: BlocksAdapter.Options, context: BuildContext) -> BlocksAdapter:
        backbone = context.need_backbone()
        return cls(backbone.make_blocks(options.num_blocks, options.init), backbone.width).to(context.device)

    @property
    def width(self) -> int:
        """Return the backbone's width D."""
        return self._width

    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        """Run the blocks on the states before the final norm, (B,T,D), and return (B,T,D)."""
        # The blocks are trained, so their dtype may be larger than the backbone's.
        dtype = next(self.blocks.parameters()).dtype
        return cast("Tensor", self.blocks(states.pre_norm.to(dtype), cache))

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return an empty cache of the blocks' own kind."""
        return cast("Cache", self.blocks.new_cache(batch_size, max_steps))  # type: ignore[operator]


class NoAdapter(BackboneAdapter):
    """Passes the backbone's states on: the audio heads read what the text head reads."""

    licence = "MIT"

    class Options(plugins.Options):
        """``none`` has no options."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    @classmethod
    def build(cls, options: NoAdapter.Options, context: BuildContext) -> NoAdapter:
        return cls(context.need_backbone().width)

    @property
    def width(self) -> int:
        """Return the backbone's width D."""
        return self._width

    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        """Return the states after the final norm, (B,T,D), unchanged."""
        return states.normed

    def new_cache(self, batch_size: int, max_steps: int) -> None:
        """Return None: the adapter has no state."""
        return
