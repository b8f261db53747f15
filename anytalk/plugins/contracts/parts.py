"""Defines the contracts of the parts of a talker: abstract classes with a few members each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts.ears import HeardBatch
from anytalk.plugins.contracts.part import Part
from anytalk.plugins.contracts.values import AudioTables, BackboneStates, Cache, CodecStream, TextTokenizer
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.sources import ModelSource

if TYPE_CHECKING:
    from anytalk.plugins.contracts.routes import Route


class Backbone(Part, nn.Module):
    """A causal text language model that can be fed embeddings."""

    tokenizer: TextTokenizer

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """Return whether this class is the right one for a model, without reading weights; ``attach`` asks it.

        ``attach`` writes the model's name to the option that ``Options.weight_sources`` names, and `--revision` to an
        option called ``revision``.
        """
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """Return D, the width of the states."""

    @property
    @abstractmethod
    def text_vocab_size(self) -> int:
        """Return V, the number of rows of the embedding and of columns of :meth:`text_logits`."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Return the ids that may end an answer; the tokenizer's ``eos_id`` is one of them."""
        return frozenset([self.tokenizer.eos_id])

    @property
    def max_positions(self) -> int | None:
        """Return how many steps the model can attend to; None: any number."""
        return None

    @property
    def thought_ids(self) -> tuple[int, int] | None:
        """Return the ids around the model's thoughts before an answer; None if it writes none."""
        return None

    @property
    def thought_marks(self) -> tuple[str, str] | None:
        """The text before and after thoughts, of a model that writes them but has no tokens of their own for it."""
        return None

    @property
    def findings(self) -> tuple[str, ...]:
        """Return what a user should know about this very model, in short sentences; ``attach`` shows and saves them."""
        return ()

    @abstractmethod
    def embed_text(self, ids: Tensor) -> Tensor:
        """Embed token ids as the base model does, (B,T) int64 -> (B,T,D)."""

    @abstractmethod
    def forward(self, embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        """Run the model causally, (B,T,D) -> states of that shape. With a cache, the T steps follow those it holds."""

    @abstractmethod
    def text_logits(self, normed: Tensor) -> Tensor:
        """Compute logits from states after the final norm, (B,T,D) -> (B,T,V), bit-identical to the base model's."""

    @abstractmethod
    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return an empty cache; :class:`anytalk.plugins.caches.KeyValueCache` suits most models.

        Args:
            batch_size: B.
            max_steps: How many steps are expected, for caches that reserve memory. More may come.
        """

    @abstractmethod
    def make_blocks(self, num_blocks: int, init: str) -> nn.Module:
        """Return a causal stack of this backbone's own blocks with its own final norm (the paper's TTS adapter).

        The module's ``forward(hidden (B,T,D), cache=None) -> (B,T,D)`` and ``new_cache(batch_size, max_steps)`` work
        like the backbone's. Its parameters are new tensors, never shared with the backbone.

        Args:
            num_blocks: How many blocks; at least 1.
            init: ``"fresh"`` (the model's own initialisation) or ``"copy"`` (from its last `num_blocks` blocks
                and its final norm).
        """

    def checkpoint_activations(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them, which saves memory.

        Raises:
            ConfigError: the backbone doesn't support it.
        """
        raise ConfigError(
            f"the backbone {type(self).__name__} has no gradient checkpointing", "leave gradient_checkpointing out"
        )

    @abstractmethod
    def save_native(self, folder: Path) -> None:
        """Write the backbone in its own format (for Hugging Face models: one that transformers alone can load)."""

    @classmethod
    @abstractmethod
    def load_native(cls, folder: Path, context: BuildContext) -> Self:
        """Load what :meth:`save_native` wrote, bit for bit, on the context's device and in its dtype.

        It loads the backbone of a talker that trained it. `folder` must say what the model is; the options that it was
        attached with (``context.options``) still say what is allowed.

        Raises:
            WeightsError: files are missing or damaged.
        """


class SpeechEncoder(Part, nn.Module):
    """Encodes sound into features."""

    @property
    def max_duration_s(self) -> float | None:
        """Return the longest sound that can be encoded, in seconds; None: any. Longer ones are refused, never cut."""
        return None

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Return the sample rate that the wave must have."""

    @property
    @abstractmethod
    def frame_rate_hz(self) -> float:
        """Return the number of features per second."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Return E, the width of the features."""

    @abstractmethod
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waves: (B,N) float32 right-padded, (B,) samples -> features (B,F,E), (B,) frames that count."""

    def output_length(self, num_samples: int) -> int:
        """Return F for N samples; this default encodes silence, so override it where F can be computed."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        with torch.no_grad():
            silence = torch.zeros(1, num_samples, device=device)
            return int(self(silence, torch.tensor([num_samples], device=device))[1][0])


class InputAdapter(Part, nn.Module):
    """Maps features to embeddings of the backbone (the paper's ASR adapter)."""

    # Whether `forward` may return fewer columns than `output_length` says, depending on what is heard.
    is_elastic: bool = False

    @abstractmethod
    def output_length(self, num_frames: int) -> int:
        """Return F' for F frames: the most columns of the grid that the speech takes, at least 1 for F >= 1."""

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Map (B,F,E), (B,) frames to columns (B,F',D), their number for each clip and, if known, its tokens."""


class OutputAdapter(Part, nn.Module):
    """Runs after the backbone and computes what the audio heads read, (B,T,W).

    An adapter is a :class:`BackboneAdapter` or a :class:`SpeechDecoder`, or brings its own route.
    """

    # Standard deviation of new audio embeddings, summed over the streams; None: that of the backbone's text embeddings.
    table_std: float | None = None

    @property
    def fits_any_backbone(self) -> bool:
        """Return whether its weights and its output are independent of the backbone's states and width.

        Only then can it be a voice.
        """
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """Return W, the width of the audio tables, the audio special tokens, the speaker table and the heads."""

    @abstractmethod
    def new_cache(self, batch_size: int, max_steps: int) -> Cache | None:
        """Return an empty cache, or None for an adapter without one."""

    def own_route(self) -> Route | None:
        """Return the adapter's own route; None, the default, leaves the choice to which of the two contracts it has."""
        return None


class BackboneAdapter(OutputAdapter):
    """Maps the backbone's states to what the audio heads read (the paper's TTS adapter); W is D.

    Audio tokens are fed back into the backbone, and the adapter runs over every step of prompt and answer.
    """

    @abstractmethod
    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        """Map states (B,T,D) each to (B,T,D); with a cache, the T steps follow those it holds."""


class SpeechDecoder(OutputAdapter):
    """Decodes speech alongside the backbone, at any width: audio tokens are fed back into this decoder alone.

    The backbone sees only text and speech features, and runs once per text token. The decoder runs over the answer
    alone, from the prompt's last step on.
    """

    reads_states: bool = True  # whether `forward` reads the backbone's states; a decoder that doesn't fits any backbone

    @property
    def fits_any_backbone(self) -> bool:
        """Return True if states aren't read; override it where a weight is as wide as the backbone."""
        return not self.reads_states

    @abstractmethod
    def forward(
        self, audio: Tensor, text: Tensor, states: BackboneStates | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Map past audio and text to what the heads read.

        Args:
            audio: (B,T,W) merged audio embeddings.
            text: (B,T) int64, the answer's text token of each step, :data:`NO_TEXT` or :data:`END_OF_TEXT`.
            states: (B,T,D) each, at the answer's text tokens, zero in steps without one. None if the backbone takes no
                part in these answers (reading aloud), or the decoder doesn't read them.
            cache: The steps so far.

        Returns:
            (B,T,W).
        """


class Heads(Part, nn.Module):
    """Predicts the tokens of all audio streams in parallel."""

    @abstractmethod
    def forward(self, hidden: Tensor, tables: AudioTables) -> Tensor:
        """Compute logits, codes before special tokens: (B,T,W) -> (B,K,T,C+specials)."""


class Codec(Part, nn.Module):
    """Encodes sound into K streams of codes of one rate, and decodes them.

    Codecs with streams of different rates (SNAC's 1:2:4) rearrange them themselves.
    """

    needs = ("sample_rate_hz", "num_streams", "codebook_size", "samples_per_frame")
    # Prefixes of the names of weights that `encode` doesn't use: existing codes stay valid if only these are trained.
    # Empty if unknown.
    decoder_prefixes: tuple[str, ...] = ()
    # Rate of the wave. It and the next three are required: as a class attribute, a property, or set in `__init__`.
    sample_rate_hz: int
    num_streams: int  # K, codes per frame
    codebook_size: int  # C, codes of each stream
    samples_per_frame: int  # samples that one frame decodes to

    @property
    def frame_rate_hz(self) -> float:
        """Return the number of frames per second."""
        return self.sample_rate_hz / self.samples_per_frame

    @property
    def token_format(self) -> str:
        """Name what the codes mean: maker, shape and weights. Codes made elsewhere are used only if theirs is equal.

        Override it for a codec whose codes are published under a name.
        """
        shape = f"{self.sample_rate_hz}/{self.samples_per_frame}/{self.num_streams}x{self.codebook_size}"
        return f"{type(self).__name__}/{shape}/{self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Return a digest of the weights that decide the codes."""
        return fingerprint(self, without=self.decoder_prefixes)

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """Encode waves, (B,N) float32 -> (B,K,T) int64; N is right-padded with silence to whole frames."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes, (B,K,T) int64 -> (B, T * samples_per_frame) float32."""

    @abstractmethod
    def new_stream(self) -> CodecStream:
        """Return a streaming decoder for one answer."""

    def push_all(self, streams: Sequence[CodecStream], codes: Sequence[Tensor]) -> list[Tensor]:
        """Push a chunk (1,K,t) to each stream; t differs. Override it to decode all in one call (equal to rounding)."""
        return [stream.push(chunk) for stream, chunk in zip(streams, codes, strict=True)]


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name such as ``"float32"``; ConfigError if it isn't a floating-point dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"'{name}' is not a floating point dtype", "use float32, bfloat16 or float16")
    return dtype
