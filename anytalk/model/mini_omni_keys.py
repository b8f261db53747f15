"""Defines the format of the published Mini-Omni: fields of ``model_config.yaml``, keys of ``lit_model.pth``, new names.

The functions only rename and reshape. The format is litgpt 0.4.3's with Mini-Omni's extensions (arXiv 2408.16725):
fused qkv matrices, and one embedding and one head for text and all audio streams.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import pydantic
import torch
from torch import Tensor

SPECIAL_SLOTS = 64
"""How many rows the original reserves for special tokens, after the text vocabulary and after each stream's codes."""

WTE, HEAD = "transformer.wte.weight", "lm_head.weight"
POST_NORM = "transformer.post_adapter_audio_ln.weight"
POST_HEAD = "transformer.post_adapter_audio_lm_head.weight"
VISION_KEYS = frozenset(f"vision_adapter.{name}.weight" for name in ("fc_1", "fc_2", "proj"))
"""Keys of Mini-Omni2's vision adapter."""


class MiniOmniConfig(pydantic.BaseModel):
    """Validates ``model_config.yaml``: values that can't be converted are refused, fields without effect are not."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    # Sizes and switches that the conversion uses.
    n_layer: int = pydantic.Field(ge=1)
    n_embd: int = pydantic.Field(ge=1)
    n_head: int = pydantic.Field(ge=1)
    n_query_groups: int = pydantic.Field(ge=1)
    head_size: int = pydantic.Field(ge=1)
    intermediate_size: int = pydantic.Field(ge=1)
    block_size: int = pydantic.Field(2048, ge=1)
    norm_eps: float = 1e-6
    rope_base: float = 1_000_000
    padded_vocab_size: int | None = None
    text_vocab_size: int = pydantic.Field(152_000, gt=SPECIAL_SLOTS)
    audio_vocab_size: int = pydantic.Field(4160, gt=SPECIAL_SLOTS)
    cat_audio_vocab_size: int = pydantic.Field(29_120, ge=1)
    whisper_adapter_dim: int = pydantic.Field(768, ge=1)
    asr_adapter: Literal["llamamlp", "mlp"] = "llamamlp"
    post_adapter: bool = False
    post_adapter_layers: int = pydantic.Field(6, ge=1)
    tie_word_embeddings: bool = False

    # The architecture: only Qwen2's values can be converted.
    mlp_class_name: Literal["LLaMAMLP"]
    norm_class_name: Literal["RMSNorm"]
    add_qkv_bias: Literal[True]
    bias: Literal[False] = False
    lm_head_bias: Literal[False] = False
    parallel_residual: Literal[False] = False
    shared_attention_norm: Literal[False] = False
    scale_embeddings: Literal[False] = False
    add_unit_offset: Literal[False] = False
    rotary_percentage: Literal[1] = 1
    rope_condense_ratio: Literal[1] = 1
    n_expert: Literal[0] = 0

    # Fields without effect on the weights or on decoding.
    name: Any = None
    hf_config: Any = None
    vocab_size: Any = None
    padding_multiple: Any = None
    n_expert_per_token: Any = None
    gelu_approximate: Any = None
    attn_dropout: Any = None
    force_align: Any = None
    pos_type: Any = None
    prompt_vocab_size: Any = None
    use_pretrain_phoneme_emb: Any = None
    vision_adapter_dim: Any = None

    @pydantic.model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.n_head % self.n_query_groups:
            raise ValueError(f"{self.n_head} heads can't share {self.n_query_groups} query groups")
        if self.head_size * self.n_head != self.n_embd:
            raise ValueError(f"{self.n_head} heads of {self.head_size} don't make n_embd {self.n_embd}")
        if self.cat_audio_vocab_size % self.audio_vocab_size:
            raise ValueError(
                f"cat_audio_vocab_size {self.cat_audio_vocab_size} is no multiple of audio_vocab_size "
                f"{self.audio_vocab_size}"
            )
        if self.padded_vocab_size not in (None, self.num_rows):
            raise ValueError(f"padded_vocab_size {self.padded_vocab_size} is not text and audio, {self.num_rows}")
        return self

    @property
    def num_rows(self) -> int:
        """Return how many rows the shared embedding has: those of text, then those of all audio streams."""
        return self.text_vocab_size + self.cat_audio_vocab_size

    @property
    def base_vocab_size(self) -> int:
        """Return V, the number of text rows without special slots."""
        return self.text_vocab_size - SPECIAL_SLOTS

    @property
    def num_streams(self) -> int:
        return self.cat_audio_vocab_size // self.audio_vocab_size

    @property
    def codebook_size(self) -> int:
        return self.audio_vocab_size - SPECIAL_SLOTS


def expected_shapes(config: MiniOmniConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all keys in ``lit_model.pth``: 198 as released, 248 with a post adapter of six blocks."""
    width, hidden, rows = config.n_embd, config.intermediate_size, config.num_rows
    shapes: dict[str, tuple[int, ...]] = {HEAD: (rows, width), WTE: (rows, width), "transformer.ln_f.weight": (width,)}
    if config.asr_adapter == "llamamlp":
        shapes["whisper_adapter.fc_1.weight"] = (hidden, config.whisper_adapter_dim)
        shapes["whisper_adapter.fc_2.weight"] = (hidden, config.whisper_adapter_dim)
        shapes["whisper_adapter.proj.weight"] = (width, hidden)
    else:
        shapes["whisper_adapter.weight"] = (width, config.whisper_adapter_dim)
        shapes["whisper_adapter.bias"] = (width,)
    stacks = {"transformer.h": config.n_layer}
    if config.post_adapter:
        stacks["transformer.post_adapter"] = config.post_adapter_layers
        shapes[POST_NORM] = (width,)
        shapes[POST_HEAD] = (config.cat_audio_vocab_size, width)
    qkv = (config.n_head + 2 * config.n_query_groups) * config.head_size
    for stack, count in stacks.items():
        for index in range(count):
            block = f"{stack}.{index}"
            shapes[f"{block}.norm_1.weight"] = shapes[f"{block}.norm_2.weight"] = (width,)
            shapes[f"{block}.attn.attn.weight"] = (qkv, width)
            shapes[f"{block}.attn.attn.bias"] = (qkv,)
            shapes[f"{block}.attn.proj.weight"] = (width, width)
            shapes[f"{block}.mlp.fc_1.weight"] = shapes[f"{block}.mlp.fc_2.weight"] = (hidden, width)
            shapes[f"{block}.mlp.proj.weight"] = (width, hidden)
    return shapes


def split_qkv(fused: Tensor, config: MiniOmniConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Split a fused qkv matrix or bias into query, key and value rows.

    Args:
        fused: ((heads + 2 * groups) * head_size, ...); each group has its query heads, a key head and a value head.

    Returns:
        Queries (heads * head_size, ...), keys and values (groups * head_size, ...).
    """
    rest = fused.shape[1:]
    # g: query group, h: its query heads, then key and value, d: head size
    grouped = fused.reshape(config.n_query_groups, -1, config.head_size, *rest)  # (g,h+2,d,...)
    queries, keys, values = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
    return queries.reshape(-1, *rest), keys.reshape(-1, *rest), values.reshape(-1, *rest)


def qwen2_layers(weights: dict[str, Tensor], stack: str, count: int, config: MiniOmniConfig) -> dict[str, Tensor]:
    """Rename blocks ``{stack}.N`` to those of a transformers Qwen2 decoder, ``layers.N....``, in float32."""
    plain = {
        "norm_1.weight": "input_layernorm.weight",
        "norm_2.weight": "post_attention_layernorm.weight",
        "attn.proj.weight": "self_attn.o_proj.weight",
        "mlp.fc_1.weight": "mlp.gate_proj.weight",
        "mlp.fc_2.weight": "mlp.up_proj.weight",
        "mlp.proj.weight": "mlp.down_proj.weight",
    }
    renamed: dict[str, Tensor] = {}
    for index in range(count):
        old, new = f"{stack}.{index}", f"layers.{index}"
        for name, its_name in plain.items():
            renamed[f"{new}.{its_name}"] = owned(weights[f"{old}.{name}"])
        for kind in ("weight", "bias"):
            for letter, tensor in zip("qkv", split_qkv(weights[f"{old}.attn.attn.{kind}"], config), strict=True):
                renamed[f"{new}.self_attn.{letter}_proj.{kind}"] = owned(tensor)
    return renamed


def audio_rows(rows: Tensor, config: MiniOmniConfig) -> Tensor:
    """Cut the audio rows out of the shared table (text + K * (C+64), D); return (K, C+64, D) float32."""
    return owned(rows[config.text_vocab_size :]).view(config.num_streams, config.audio_vocab_size, -1)


def owned(tensor: Tensor) -> Tensor:
    """Return a float32 copy that no longer refers to the memory-mapped file."""
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
