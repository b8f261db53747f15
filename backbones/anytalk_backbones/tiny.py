"""A complete backbone in plain torch, small enough to read: start here to write your own.

It is a pre-norm transformer over bytes with rotary positions. Its weights are random but always the same for a seed,
so tests can compare numbers without downloading anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins import BuildContext
from anytalk.plugins.byte_tokenizer import VOCAB_SIZE, ByteTokenizer
from anytalk.plugins.caches import KeyValueCache, Rows
from anytalk.plugins.contracts import Backbone, BackboneStates, Cache, torch_dtype
from anytalk.plugins.sources import ModelSource, resolve

MODEL_TYPE = "anytalk-tiny"
_ROTARY_BASE = 10_000.0


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Apply rotary positions (RoFormer, arXiv 2104.09864): (B,H,T,d), (B,T) -> (B,H,T,d), rotated by position."""
    half = x.shape[-1] // 2
    # Each pair of channels rotates at its own frequency, from 1 towards 1 / base.
    frequencies = _ROTARY_BASE ** (-torch.arange(half, device=x.device) / half)
    angles = positions[:, None, :, None] * frequencies  # (B,1,T,d/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TinyBlock(nn.Module):
    """Applies attention and an MLP, each with a norm before it and a residual around it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.RMSNorm(width)
        # One product for queries, keys and values is faster than three.
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, index: int, positions: Tensor, seen: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Run one block, (B,T,D) -> (B,T,D); `index` is its key in the cache. Positions (B,T), seen (B,T,L) bool."""
        batch, steps, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, steps, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B,H,T,d) each
        q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.append(index, k, v)
        # (B,H,T,d); the mask gets an axis for the heads.
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        x = x + self.out(attended.transpose(1, 2).reshape(batch, steps, width))
        return x + cast("Tensor", self.mlp(self.mlp_norm(x)))


class TinyBlocks(nn.Module):
    """A stack of blocks with a final norm, which the backbone and an output adapter are made of."""

    def __init__(self, num_blocks: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyBlock(width, num_heads) for _ in range(num_blocks))
        self.norm = nn.RMSNorm(width)

    def before_norm(self, hidden: Tensor, cache: Cache | None = None) -> Tensor:
        """Run all blocks without the final norm, (B,T,D) -> (B,T,D)."""
        held = cast("KeyValueCache | None", cache)
        rows, steps = Rows(1) if held is None else held.rows, hidden.shape[1]
        # A cache knows how many steps each row holds; without one, positions count from 0.
        positions, seen = rows.positions(steps, hidden.device), rows.seen(steps, hidden.device)
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, index, positions, seen, held)
        if held is not None:
            # Once for all layers, after each has appended its keys and values.
            held.advance(steps)
        return hidden

    def forward(self, hidden: Tensor, cache: Cache | None = None) -> Tensor:
        """Run all blocks and the final norm, (B,T,D) -> (B,T,D)."""
        return cast("Tensor", self.norm(self.before_norm(hidden, cache)))

    def new_cache(self, batch_size: int, max_steps: int) -> KeyValueCache:
        return KeyValueCache(batch_size, max_steps)


class TinyBackbone(Backbone):
    """Runs a small transformer over bytes; its weights are random but fixed by a seed."""

    licence = "MIT"

    class Options(plugins.Options):
        """Gives sizes and seed, or a folder that :meth:`TinyBackbone.save_native` wrote."""

        width: int = Field(32, ge=4, description="Width D of the states.")
        num_blocks: int = Field(2, ge=1, description="Transformer blocks.")
        num_heads: int = Field(2, ge=1, description="Attention heads; width / num_heads must be even.")
        seed: int = Field(0, description="Seed of the random weights.")
        chat: bool = Field(True, description="Whether the tokenizer has a chat template.")
        weight_sources = ("model",)

        model: str | None = Field(None, description="A saved tiny backbone; the other options are then read from it.")

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> Self:
        """Make it from its seed, or load it.

        Raises:
            ConfigError: the heads can't share the width equally.
            WeightsError: the folder holds no tiny backbone.
        """
        backbone = cls(options) if options.model is None else cls._load(resolve(options.model, context.folder))
        return backbone.to(context.device, torch_dtype(context.dtype))

    @classmethod
    def load_native(cls, folder: Path, context: BuildContext) -> Self:
        """Load what :meth:`save_native` wrote (WeightsError: the folder holds no tiny backbone)."""
        return cls._load(ModelSource(str(folder), (folder,))).to(context.device, torch_dtype(context.dtype))

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """Return True for a folder whose config.json says so."""
        return source.hf_config().get("model_type") == MODEL_TYPE

    @classmethod
    def _load(cls, source: ModelSource) -> Self:
        config = source.hf_config()
        if config.pop("model_type", None) != MODEL_TYPE:
            raise WeightsError(
                f"'{source.spec}' holds no tiny backbone", "give a folder with its config.json and model.safetensors"
            )
        try:
            backbone = cls(cls.Options.model_validate(config))
            backbone.load_state_dict(load_file(source.path / "model.safetensors"))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise WeightsError(
                f"'{source.spec}' can't be loaded: {' '.join(str(error).split())}", "save the tiny backbone again"
            ) from None
        return backbone

    def __init__(self, options: Options) -> None:
        super().__init__()
        if options.width % (2 * options.num_heads):
            raise ConfigError(
                f"a tiny backbone of width {options.width} can't be split into {options.num_heads} heads of even width",
                f"use a width that is a multiple of {2 * options.num_heads}",
            )
        self.options = options
        self.tokenizer = ByteTokenizer(options.chat)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            # The order in which weights are drawn belongs to the seed: new layers go last.
            self.embedding = nn.Embedding(VOCAB_SIZE, options.width)
            self.stack = TinyBlocks(options.num_blocks, options.width, options.num_heads)
            self.head = nn.Linear(options.width, VOCAB_SIZE, bias=False)

    @property
    def width(self) -> int:
        return self.options.width

    @property
    def text_vocab_size(self) -> int:
        return VOCAB_SIZE

    def embed_text(self, ids: Tensor) -> Tensor:
        return cast("Tensor", self.embedding(ids))

    def forward(self, embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        pre_norm = self.stack.before_norm(embeds, cache)
        return BackboneStates(pre_norm, self.stack.norm(pre_norm))

    def text_logits(self, normed: Tensor) -> Tensor:
        return cast("Tensor", self.head(normed))

    def new_cache(self, batch_size: int, max_steps: int) -> KeyValueCache:
        return self.stack.new_cache(batch_size, max_steps)

    def make_blocks(self, num_blocks: int, init: str) -> TinyBlocks:
        """Return a stack of such blocks with its own seeded weights (``"fresh"``) or the last ones' (``"copy"``)."""
        if init not in ("fresh", "copy") or num_blocks < 1 or (init == "copy" and num_blocks > self.options.num_blocks):
            raise ConfigError(
                f"{num_blocks} blocks with init '{init}' can't be made from {self.options.num_blocks} blocks",
                f"use init 'fresh', or 'copy' with 1 to {self.options.num_blocks} blocks",
            )
        with torch.random.fork_rng(devices=[]):
            # With the backbone's own seed, fresh blocks would start as copies of its first ones.
            torch.manual_seed(self.options.seed + 1)
            made = TinyBlocks(num_blocks, self.options.width, self.options.num_heads)
        if init == "copy":
            for new, old in zip(made.blocks, self.stack.blocks[-num_blocks:], strict=True):
                new.load_state_dict(old.state_dict())
            made.norm.load_state_dict(self.stack.norm.state_dict())
        return made.to(self.head.weight.device, self.head.weight.dtype)

    def save_native(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": MODEL_TYPE, **self.options.model_dump(exclude={"model"})}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors"
        )
