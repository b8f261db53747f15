"""A language model of a few gated recurrent blocks over bytes, as a backbone for anytalk."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import anytalk
from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins.byte_tokenizer import VOCAB_SIZE, ByteTokenizer
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import Backbone, BackboneStates, torch_dtype


def last_state(cache: KeyValueCache, block: int) -> Tensor | None:
    """(1,B,D): a block's state after the last step of each row; None before the first."""
    if not cache.length:
        return None
    states = cache.held(block)[0, :, 0]  # (B,L,D); rows may hold unequally many steps
    last = torch.tensor(cache.rows.lengths, device=states.device) - 1
    return states[torch.arange(len(states)), last][None]


class ParrotBlock(nn.Module):
    """x + GRU(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B,T,D), the state before (1,B,D) -> (B,T,D), and the states after each step (B,T,D)."""
        out, _ = self.gru(self.norm(x), state)
        return x + out, out


class ParrotStack(nn.Module):
    """Blocks and their final norm: the trunk of the backbone, and what `make_blocks` gives to an output adapter."""

    def __init__(self, num_blocks: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ParrotBlock(width) for _ in range(num_blocks))
        self.norm = nn.RMSNorm(width)

    def run(self, hidden: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(B,T,D) -> (B,T,D) before the final norm."""
        for number, block in enumerate(self.blocks):
            hidden, states = block(hidden, None if cache is None else last_state(cache, number))
            if cache is not None:
                cache.write(number, states[None, :, None])
        if cache is not None:
            cache.advance(hidden.shape[1])
        return hidden

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        normed: Tensor = self.norm(self.run(hidden, cache))
        return normed

    def new_cache(self, batch_size: int, max_steps: int) -> KeyValueCache:
        return KeyValueCache(batch_size, max_steps)


class ParrotBackbone(Backbone):
    licence = "MIT"

    class Options(anytalk.Options):
        width: int = Field(64, ge=1, description="D.")
        num_blocks: int = Field(2, ge=1, description="Blocks.")
        seed: int = Field(0, description="Seed of the weights: they must be the same each time a talker is loaded.")

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.tokenizer = ByteTokenizer(chat=False)
        self.embedding = nn.Embedding(VOCAB_SIZE, width)
        self.stack = ParrotStack(num_blocks, width)

    @classmethod
    def build(cls, options: Options, context: anytalk.BuildContext) -> ParrotBackbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            backbone = cls(options.width, options.num_blocks)
        return backbone.to(context.device, torch_dtype(context.dtype))

    @property
    def width(self) -> int:
        return self.embedding.embedding_dim

    @property
    def text_vocab_size(self) -> int:
        return VOCAB_SIZE

    def embed_text(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.embedding.weight)

    def forward(self, embeds: Tensor, cache: Any = None) -> BackboneStates:
        hidden = self.stack.run(embeds, cache)
        return BackboneStates(pre_norm=hidden, normed=self.stack.norm(hidden))

    def text_logits(self, normed: Tensor) -> Tensor:
        return normed @ self.embedding.weight.T

    def new_cache(self, batch_size: int, max_steps: int) -> KeyValueCache:
        return self.stack.new_cache(batch_size, max_steps)

    def make_blocks(self, num_blocks: int, init: str) -> ParrotStack:
        made = ParrotStack(num_blocks, self.width).to(self.embedding.weight)
        if init == "copy":
            if num_blocks > len(self.stack.blocks):
                raise ConfigError(
                    f"{num_blocks} blocks to copy, but parrot has {len(self.stack.blocks)}",
                    "ask for fewer, or init: fresh",
                )
            made.blocks = copy.deepcopy(self.stack.blocks[-num_blocks:])
            made.norm = copy.deepcopy(self.stack.norm)
        return made

    def save_native(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shape = {"width": self.width, "num_blocks": len(self.stack.blocks)}
        (folder / "parrot.json").write_text(json.dumps(shape), encoding="utf-8")
        save_file(self.state_dict(), folder / "parrot.safetensors")

    @classmethod
    def load_native(cls, folder: Path, context: anytalk.BuildContext) -> ParrotBackbone:
        try:
            backbone = cls(**json.loads((folder / "parrot.json").read_text(encoding="utf-8")))
            backbone.load_state_dict(load_file(folder / "parrot.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise WeightsError(f"parrot '{folder}' can't be read: {error}", "copy the folder again") from None
        return backbone.to(context.device, torch_dtype(context.dtype))


@anytalk.hookimpl
def register_backbones() -> list[anytalk.Component]:
    return [anytalk.Component("parrot", "anytalk_parrot:ParrotBackbone", "a small recurrent net over bytes")]
