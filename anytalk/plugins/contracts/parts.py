"""The contracts of the parts that a talker is made of: abstract classes of a few members each."""

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
        """Return whether this plugin is the natural one for a model; asked by ``attach``. Reads no weights.

        Its ``Options.weight_sources`` names the option in which ``attach`` writes the model's name; `--revision` goes
        into one called ``revision``.
        """
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """D."""

    @property
    @abstractmethod
    def text_vocab_size(self) -> int:
        """V: rows of the embedding and columns of :meth:`text_logits`."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids with which the model may end an answer; the tokenizer's ``eos_id`` is one of them."""
        return frozenset([self.tokenizer.eos_id])

    @property
    def max_positions(self) -> int | None:
        """Steps that the model can look at; None: any number."""
        return None

    @property
    def thought_ids(self) -> tuple[int, int] | None:
        """The ids before and after what a model thinks before it answers; None for one that doesn't."""
        return None

    @property
    def findings(self) -> tuple[str, ...]:
        """What a user should know of this very model, a short sentence each; ``attach`` shows and keeps them."""
        return ()

    @abstractmethod
    def embed_text(self, ids: Tensor) -> Tensor:
        """(B,T) int64 -> (B,T,D), as the base model would embed them."""

    @abstractmethod
    def forward(self, embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        """(B,T,D) -> states of the same shape; causal. With a cache the T steps follow those it holds."""

    @abstractmethod
    def text_logits(self, normed: Tensor) -> Tensor:
        """(B,T,D) after the final norm -> (B,T,V), bit-identical to the base model's."""

    @abstractmethod
    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return an empty cache; :class:`anytalk.plugins.caches.KeyValueCache` suits most models.

        Args:
            batch_size: B.
            max_steps: Steps that are expected, for caches that reserve memory. More may come.
        """

    @abstractmethod
    def make_blocks(self, num_blocks: int, init: str) -> nn.Module:
        """Return a causal stack of this backbone's own kind of block with its own final norm (paper: the TTS adapter).

        The module's ``forward(hidden (B,T,D), cache=None) -> (B,T,D)`` and ``new_cache(batch_size, max_steps)``
        follow the backbone's own. Parameters are fresh tensors, never shared with the backbone.

        Args:
            num_blocks: How many blocks; at least 1.
            init: ``"fresh"`` (the model's own initialisation) or ``"copy"`` (from its last `num_blocks` blocks
                and its final norm).
        """

    def checkpoint_activations(self, enabled: bool) -> None:
        """Compute activations twice while training instead of keeping them; a backbone that can't says so.

        Raises:
            ConfigError: this backbone can't.
        """
        raise ConfigError(
            f"the backbone {type(self).__name__} has no gradient checkpointing", "leave gradient_checkpointing out"
        )

    @abstractmethod
    def save_native(self, folder: Path) -> None:
        """Write the backbone in its own format (for Hugging Face models: loadable by transformers alone)."""

    @classmethod
    @abstractmethod
    def load_native(cls, folder: Path, context: BuildContext) -> Self:
        """Load what :meth:`save_native` wrote, bit for bit, on the context's device and in its dtype.

        A talker whose backbone was trained is loaded by this. `folder` has to say what the model is; the options that
        it was attached with (``context.options``) still say what is allowed.

        Raises:
            WeightsError: files that are missing or damaged.
        """


class SpeechEncoder(Part, nn.Module):
    """Ears: sound to features."""

    @property
    def max_duration_s(self) -> float | None:
        """Longest sound that can be encoded, in seconds; None: any. Longer questions are refused, never cut."""
        return None

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Rate the wave must have."""

    @property
    @abstractmethod
    def frame_rate_hz(self) -> float:
        """Features per second."""

    @property
    @abstractmethod
    def width(self) -> int:
        """E."""

    @abstractmethod
    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B,N) float32 right-padded, (B,) samples -> features (B,F,E), (B,) frames that count."""

    def output_length(self, num_samples: int) -> int:
        """Return F for N samples, without encoding where that is known; this default asks :meth:`forward`."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        with torch.no_grad():
            silence = torch.zeros(1, num_samples, device=device)
            return int(self(silence, torch.tensor([num_samples], device=device))[1][0])


class InputAdapter(Part, nn.Module):
    """The paper's ASR adapter: features to embeddings of the backbone."""

    # Whether `forward` may give a row fewer columns than `output_length`, depending on what is heard.
    is_elastic: bool = False

    @abstractmethod
    def output_length(self, num_frames: int) -> int:
        """Return F' for F frames, the most columns of the grid that the speech takes; at least 1 for F >= 1."""

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """(B,F,E), (B,) frames -> (B,F',D) columns, how many each clip has, and its tokens where they are known."""


class OutputAdapter(Part, nn.Module):
    """The part after the backbone: it gives the audio heads what they read, (B,T,W).

    An adapter is a :class:`BackboneAdapter` or a :class:`SpeechDecoder`, or brings a route of its own.
    """

    # Standard deviation of fresh audio rows, summed over the streams; None: that of the backbone's text.
    table_std: float | None = None

    @property
    def fits_any_backbone(self) -> bool:
        """Whether neither its weights nor what it says depend on the backbone's states or width.

        Then it can be a voice.
        """
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """W: width of the audio tables, the audio special tokens, the speaker table and the heads."""

    @abstractmethod
    def new_cache(self, batch_size: int, max_steps: int) -> Cache | None:
        """Return an empty cache, or None for an adapter that has no memory."""

    def own_route(self) -> Route | None:
        """Return the route that this adapter needs; None, the default, where one of its two contracts says it."""
        return None


class BackboneAdapter(OutputAdapter):
    """The paper's TTS adapter, between the backbone's states and the audio heads; W is D.

    Audio tokens are fed back into the backbone, and the adapter runs over every step of prompt and answer.
    """

    @abstractmethod
    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        """States (B,T,D) each -> (B,T,D); with a cache the T steps follow those it holds."""


class SpeechDecoder(OutputAdapter):
    """A decoder beside the backbone, as wide as it likes: audio tokens are fed back into the decoder alone.

    The backbone sees text and speech features only and runs once per text token. The decoder runs over the answer
    alone, from the prompt's last step on.
    """

    reads_states: bool = True  # whether `forward` reads the backbone's states; a decoder that doesn't fits any backbone

    @property
    def fits_any_backbone(self) -> bool:
        """One that doesn't read states does; override it where a weight is as wide as the backbone."""
        return not self.reads_states

    @abstractmethod
    def forward(
        self, audio: Tensor, text: Tensor, states: BackboneStates | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Map past audio and text to the input of the heads.

        Args:
            audio: (B,T,W) merged audio rows.
            text: (B,T) int64, the answer's text token of each step, :data:`NO_TEXT` or :data:`END_OF_TEXT`.
            states: (B,T,D) each, of the answer's text tokens, zero in steps without one. None: the backbone has no part
                in these answers (reading aloud), or the decoder doesn't read them.
            cache: Steps so far.

        Returns:
            (B,T,W).
        """


class Heads(Part, nn.Module):
    """Parallel audio heads."""

    @abstractmethod
    def forward(self, hidden: Tensor, tables: AudioTables) -> Tensor:
        """(B,T,W) -> logits (B,K,T,C+specials), codes first."""


class Codec(Part, nn.Module):
    """K rectangular streams of codes to sound and back.

    Codecs with streams of different rates (SNAC's 1:2:4) rearrange them to a rectangle themselves.
    """

    needs = ("sample_rate_hz", "num_streams", "codebook_size", "samples_per_frame")
    # What the names of weights begin with that `encode` doesn't use: codes of before stay good when only these are
    # trained. Empty where that isn't known.
    decoder_prefixes: tuple[str, ...] = ()
    # Rate of the wave. This and the next three are compulsory: a class attribute, a property, or set in `__init__`.
    sample_rate_hz: int
    num_streams: int  # K, codes per frame
    codebook_size: int  # C, codes of each stream
    samples_per_frame: int  # samples that one frame decodes to

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.samples_per_frame

    @property
    def token_format(self) -> str:
        """Names what the codes mean: maker, shape and weights. Codes made elsewhere are used only if theirs is equal.

        Override it for a codec whose codes are published under a name.
        """
        shape = f"{self.sample_rate_hz}/{self.samples_per_frame}/{self.num_streams}x{self.codebook_size}"
        return f"{type(self).__name__}/{shape}/{self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """A digest of the weights that decide the codes."""
        return fingerprint(self, without=self.decoder_prefixes)

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """(B,N) float32 -> (B,K,T) int64; N is right-padded with silence to whole frames."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(B,K,T) int64 -> (B, T * samples_per_frame) float32."""

    @abstractmethod
    def new_stream(self) -> CodecStream:
        """Return a streaming decoder for one answer."""

    def push_all(self, streams: Sequence[CodecStream], codes: Sequence[Tensor]) -> list[Tensor]:
        """Return what each stream's ``push`` would give for its (1,K,t) codes, where t differs; equal to rounding."""
        return [stream.push(chunk) for stream, chunk in zip(streams, codes, strict=True)]


def torch_dtype(name: str) -> torch.dtype:
    """``"float32"`` -> ``torch.float32``; ConfigError for anything that is no floating dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"'{name}' is not a floating point dtype", "use float32, bfloat16 or float16")
    return dtype
