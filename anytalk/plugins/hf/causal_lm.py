"""Makes a backbone of any transformers causal LM. It knows no model family by name and reads no files.

Everything here calls the model's own modules, so that the text path stays bit-identical to the model's.
"""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anytalk import plugins
from anytalk.errors import ConfigError, WeightsError
from anytalk.kernels import Int8Matrix, RefinedMatrix, make_matrix, make_ready
from anytalk.plugins import BuildContext
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import Arithmetic, Backbone, BackboneStates, Cache, Peaks, torch_dtype
from anytalk.plugins.hf.cache import HFCache, new_hf_cache
from anytalk.plugins.hf.lean import LeanDecoder, can_be_lean
from anytalk.plugins.hf.loading import foreign_errors, load_causal_lm, quiet_transformers, write_licence
from anytalk.plugins.hf.onnx_step import OnnxDecoder, OnnxMatrix
from anytalk.plugins.hf.static_step import StaticDecoder
from anytalk.plugins.hf.tokenizer import HFTokenizer
from anytalk.plugins.sources import ModelSource, resolve
from anytalk.plugins.thoughts import MARKS

_logger = logging.getLogger(__name__)

# transformers has no common name for the norm after the last layer; these are those of its families.
_FINAL_NORM_NAMES = ("norm", "final_layer_norm", "final_layernorm", "final_norm", "ln_f")
# Other types of layers (state spaces, linear attention) have a memory that can't be cropped step by step.
_ATTENTION_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}


class HFBlocks(nn.Module):
    """Runs a short decoder of the model's own class, which has no token embedding."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, hidden: Tensor, cache: Cache | None = None) -> Tensor:
        """Run the blocks and their final norm, (B,T,D) -> (B,T,D)."""
        if isinstance(self.decoder, LeanDecoder):
            return cast("BackboneStates", self.decoder(hidden, cache)).normed
        return cast("Tensor", _run(self.decoder, hidden, cache).last_hidden_state)

    def new_cache(self, batch_size: int, max_steps: int) -> HFCache | KeyValueCache:
        if isinstance(self.decoder, LeanDecoder):
            return self.decoder.new_cache(batch_size, max_steps)
        return new_hf_cache(self.decoder, batch_size)

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        if can_be_lean(self.decoder):
            self.decoder = _lean(self.decoder, arithmetic, peaks)
        else:
            make_ready(self.decoder, arithmetic, peaks)


class CausalLMBackbone(Backbone):
    """The base class of every backbone that is a transformers causal LM.

    Args:
        lm: A ``PreTrainedModel`` with a language modelling head, e.g. ``Qwen2ForCausalLM(config)``.
        tokenizer: Its ``PreTrainedTokenizerBase``.
        licence: The SPDX name of its licence.

    Raises:
        WeightsError: its embedding, head, blocks or final norm can't be found, or its layers aren't pure attention.
    """

    lm: Any
    tokenizer: HFTokenizer

    class Options(plugins.Options):
        """Names the model."""

        weight_sources = ("model",)

        model: str = Field(description="Hub id, local folder, .gguf file, or package:NAME/PATH.")
        revision: str | None = Field(None, description="Branch, tag or commit of a hub id; default: its main branch.")
        trust_remote_code: bool = Field(False, description="Run the Python code that a model brings. Read it first.")

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> Self:
        """Load the weights (WeightsError: they are missing, damaged or of the wrong kind)."""
        source = resolve(options.model, context.folder)
        return cls._load(source, options.revision, context, options.trust_remote_code)

    @classmethod
    def load_native(cls, folder: Path, context: BuildContext) -> Self:
        """Load what :meth:`save_native`, or transformers itself, wrote.

        Raises:
            WeightsError: the weights are missing, damaged or of the wrong kind.
        """
        trusts = bool(getattr(context.options, "trust_remote_code", False))
        return cls._load(ModelSource(str(folder), (folder,)), None, context, trusts)

    @classmethod
    def _load(cls, source: ModelSource, revision: str | None, context: BuildContext, trusts: bool = False) -> Self:
        loaded = load_causal_lm(source, revision, torch_dtype(context.dtype), trusts)
        with foreign_errors(source, "copy or download the model again"):
            backbone = cls(loaded.lm, loaded.tokenizer, loaded.licence)
        backbone._left_over = loaded.left_over
        return backbone.to(context.device)

    def __init__(self, lm: Any, tokenizer: Any, licence: str = "unknown") -> None:
        super().__init__()
        self.lm = lm
        self.licence = licence
        self.tokenizer = HFTokenizer(tokenizer, None if lm.get_input_embeddings() is None else self.text_vocab_size)
        self._left_over: Sequence[str] = ()
        self._lean: LeanDecoder | None = None
        self._check_structure()

    def _check_structure(self) -> None:
        name = self.lm.config.model_type
        hint = "anytalk needs a decoder-only language model, e.g. Qwen2, Llama, Mistral, Gemma or Phi"
        if self.lm.get_input_embeddings() is None or self.lm.get_output_embeddings() is None:
            raise WeightsError(f"a '{name}' model has no token embedding or no language modelling head", hint)
        if _final_norm(self._decoder) is None or _layers(self._decoder) is None:
            raise WeightsError(f"the blocks or the final norm of a '{name}' model can't be found", hint)
        if self.lm.get_input_embeddings().weight.shape[1] != self._config.hidden_size:
            raise WeightsError(f"the embeddings of this '{name}' model are not as wide as its states", hint)
        other = set(getattr(self._config, "layer_types", None) or ()) - _ATTENTION_LAYER_TYPES
        if other:
            raise WeightsError(
                f"a '{name}' model has layers of the types {', '.join(sorted(other))}, whose cache can't be cropped",
                hint,
            )

    @property
    def _decoder(self) -> nn.Module:
        return cast("nn.Module", self.lm.get_decoder())

    @property
    def _config(self) -> Any:
        return self._decoder.config

    @property
    def width(self) -> int:
        return int(self._config.hidden_size)

    @property
    def text_vocab_size(self) -> int:
        """Return V, the rows of the embedding, which are often more than the tokenizer has tokens."""
        return int(self.lm.get_input_embeddings().weight.shape[0])

    @property
    def end_ids(self) -> frozenset[int]:
        """Return the end tokens of the chat template, the tokenizer and the model's own settings."""
        own, base = self.lm.generation_config, self.tokenizer.base
        ids = None if own is None else own.eos_token_id
        given = [i for i in (ids if isinstance(ids, list | tuple) else [ids]) if isinstance(i, int)]
        # The default of a model class may be an ordinary token in this model.
        found = {self.tokenizer.eos_id, base.eos_token_id, *(i for i in given if i in base.added_tokens_decoder)}
        return frozenset(int(i) for i in found if i is not None and 0 <= i < self.text_vocab_size)

    @property
    def max_positions(self) -> int | None:
        """Return ``max_position_embeddings``, which transformers finds under each family's own name."""
        found = getattr(self._config, "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def thought_ids(self) -> tuple[int, int] | None:
        """Return the ids of ``<think>`` and ``</think>``, or of another pair of :data:`MARKS` that are tokens."""
        found = (self.tokenizer.ids_of(first, last) for first, last in MARKS)
        # The first pair wins, should a tokenizer have more.
        return next((pair for pair in found if pair is not None), None)

    @property
    def thought_marks(self) -> tuple[str, str] | None:
        """Return a pair of :data:`MARKS` that its chat template knows, and that is ordinary text to its tokenizer."""
        if self.thought_ids is not None:
            return None
        template = self.tokenizer.template
        return next((pair for pair in MARKS if any(mark in template for mark in pair)), None)

    @property
    def findings(self) -> tuple[str, ...]:
        """Return its end tokens, its number of positions, and what is unusual about it."""
        ends = ", ".join(map(str, self.tokenizer.base.convert_ids_to_tokens(sorted(self.end_ids))))
        found = [f"an answer ends with {ends}"]
        if self.max_positions is not None:
            found.append(f"it has {self.max_positions} positions, for a conversation and its answer")
        if self.thought_ids is not None or self.thought_marks is not None:
            found.append("it can think before it answers; thoughts are not spoken")
        if self._left_over:
            rest = f"{len(self._left_over)} tensors of its files, first '{self._left_over[0]}'"
            found.append(f"it doesn't use {rest}: is this the right model class?")
        return (*found, *self.tokenizer.findings)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embed token ids, with the family's own scaling (Gemma): (B,T) int64 -> (B,T,D)."""
        return cast("Tensor", self.lm.get_input_embeddings()(ids))

    def forward(self, embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        if self._lean is not None:
            return cast("BackboneStates", self._lean(embeds, cache))
        # The states before the final norm are read by a hook, because decoders return only those after it.
        norm = cast("nn.Module", _final_norm(self._decoder))
        with _captured_input(norm) as captured:
            normed = _run(self._decoder, embeds, cache).last_hidden_state
        return BackboneStates(captured[0], normed)

    def text_logits(self, normed: Tensor) -> Tensor:
        """Compute logits with the head and what the family does after it (scales, soft caps): (B,T,D) -> (B,T,V)."""
        return _after_head(self.lm.get_output_embeddings()(normed), self._config)

    def new_cache(self, batch_size: int, max_steps: int) -> HFCache | KeyValueCache:
        if self._lean is not None:
            return self._lean.new_cache(batch_size, max_steps)
        return new_hf_cache(self._decoder, batch_size)

    def make_blocks(self, num_blocks: int, init: str) -> HFBlocks:
        """Return a decoder of the same class with `num_blocks` layers.

        Raises:
            ConfigError: fewer than one block, an unknown `init`, or more blocks to copy than there are.
        """
        layers = cast("nn.ModuleList", _layers(self._decoder))
        if init not in ("fresh", "copy") or num_blocks < 1 or (init == "copy" and num_blocks > len(layers)):
            raise ConfigError(
                f"{num_blocks} blocks with init '{init}' can't be made from a backbone of {len(layers)} blocks",
                f"use init 'fresh', or 'copy' with 1 to {len(layers)} blocks",
            )
        with quiet_transformers():
            decoder: Any = type(self._decoder)(_blocks_config(self._config, num_blocks))
        # The blocks are fed states only: a token embedding would be a parameter that never gets a gradient.
        decoder.set_input_embeddings(nn.Identity())
        if init == "copy":
            _copy_last(self._decoder, decoder)
        weight = self.lm.get_input_embeddings().weight
        return HFBlocks(decoder).to(weight.device, weight.dtype)

    def checkpoint_activations(self, enabled: bool) -> None:
        """Keep only each layer's input for the backward pass, also in frozen layers and in eval mode.

        Transformers' own switch works in training mode only, and so would turn on dropout in frozen layers.
        """
        for layer in cast("nn.ModuleList", _layers(self._decoder)):
            # A wrapped forward is an attribute of the layer; without it, the class's own is found again.
            layer.__dict__.pop("forward", None)
            if enabled:
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        """Replace the layers (by a :class:`LeanDecoder` if it computes the same) and the text head, not the embedding.

        This implements :class:`anytalk.plugins.contracts.MakesReady`.
        """
        head = self.lm.get_output_embeddings()
        if can_be_lean(self._decoder):
            self._lean = _lean(self._decoder, arithmetic, peaks)
            if arithmetic in ("packed", "int8", "int4"):
                cast("nn.ModuleList", _layers(self._decoder)).to("meta")  # frees their memory
        else:
            make_ready(self._decoder, arithmetic, peaks)
            if arithmetic == "int4":
                kind = type(self._decoder).__name__
                _logger.warning("steps are taken in 8 bits instead of 4: no 4-bit steps are known for %s", kind)
        if arithmetic in ("int8", "int4"):
            small = arithmetic == "int4"
            coarse = OnnxMatrix(head) if small else Int8Matrix(head.weight, head.bias, peaks.get(head))
            self.lm.set_output_embeddings(RefinedMatrix(head.weight, coarse))
        else:
            self.lm.set_output_embeddings(make_matrix(arithmetic, head.weight, head.bias))

    def save_native(self, folder: Path) -> None:
        """Write weights, config and tokenizer for transformers, and the licence for readers."""
        with quiet_transformers():
            self.lm.save_pretrained(folder)
            self.tokenizer.base.save_pretrained(folder)
        write_licence(folder, self.licence)


def _run(decoder: nn.Module, hidden: Tensor, cache: Cache | None) -> Any:
    if cache is None:
        return decoder(inputs_embeds=hidden, use_cache=False, return_dict=True)
    held, steps = cast("HFCache", cache), hidden.shape[1]
    found = decoder(
        inputs_embeds=hidden, past_key_values=held.kv, use_cache=True, return_dict=True, **held.places(steps)
    )
    held.rows.advance(steps)
    return found


def _lean(decoder: nn.Module, arithmetic: Arithmetic, peaks: Peaks) -> LeanDecoder:
    if arithmetic == "int4":
        return OnnxDecoder(decoder, peaks)
    return (StaticDecoder if arithmetic == "graphs" else LeanDecoder)(decoder, arithmetic, peaks)


@contextmanager
def _captured_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that receives the module's first argument each time this thread calls it."""
    captured: list[Tensor] = []
    here = threading.get_ident()

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        # A server may run several threads on one backbone, each with its own hook.
        if threading.get_ident() == here:
            captured.append(args[0])

    handle = module.register_forward_pre_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def _final_norm(decoder: nn.Module) -> nn.Module | None:
    found = (getattr(decoder, name, None) for name in _FINAL_NORM_NAMES)
    return next((module for module in found if isinstance(module, nn.Module)), None)


def _layers(decoder: Any) -> nn.ModuleList | None:
    count = decoder.config.num_hidden_layers
    # The blocks are recognised by their number, since families name the list differently.
    lists = (child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == count)
    return next(lists, None)


def _copy_last(old: nn.Module, new: nn.Module) -> None:
    """Copy the last layers and the final norm of a decoder to a shorter one."""
    new_layers = cast("nn.ModuleList", _layers(new))
    for mine, theirs in zip(new_layers, cast("nn.ModuleList", _layers(old))[-len(new_layers) :], strict=True):
        mine.load_state_dict(theirs.state_dict())
    cast("nn.Module", _final_norm(new)).load_state_dict(cast("nn.Module", _final_norm(old)).state_dict())
    for child in new.children():
        if isinstance(child, nn.Embedding):
            # Positions that are learned (GPT-2) were added before the first layer, so states contain them already.
            nn.init.zeros_(child.weight)


def _after_head(logits: Tensor, config: Any) -> Tensor:
    """Do what causal LMs of transformers do to logits: Cohere multiplies, Granite divides, Gemma 2 and 3 cap."""
    multiplier = getattr(config, "logit_scale", None)
    if multiplier is not None:
        logits = logits * multiplier
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _blocks_config(config: Any, num_blocks: int) -> Any:
    """Return the model's config for `num_blocks` layers like its last ones, which are fed states instead of tokens."""
    count = config.num_hidden_layers
    changed = copy.deepcopy(config)
    # Lists with an entry for each layer are shortened like the layers; fresh blocks may be more, so they wrap.
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count and name.endswith(("layers", "layer_types")):
            setattr(changed, name, [value[(count - num_blocks + i) % count] for i in range(num_blocks)])
    changed.num_hidden_layers = num_blocks
    changed.vocab_size = 1
    changed.pad_token_id = None
    if getattr(config, "embedding_multiplier", None) is not None:
        # Granite scales the embeddings that it is fed; a state is scaled already.
        changed.embedding_multiplier = 1.0
    return changed
