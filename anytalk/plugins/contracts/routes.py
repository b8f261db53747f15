"""Defines the contract of a route: how an answer's audio is fed back, and which parts run in which step.

The model's own two routes are in :mod:`anytalk.model.routes`; an output adapter may bring another one
(:meth:`OutputAdapter.own_route`). W is the width of what the audio heads read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from anytalk.plugins.contracts.parts import Backbone, OutputAdapter
from anytalk.plugins.contracts.values import BackboneStates, Cache


class Layout(Protocol):
    """Describes the rows and token ids of the grid; see :class:`anytalk.grid.tokens.StreamLayout`."""

    @property
    def num_audio_streams(self) -> int:
        """Return K, the number of audio streams."""

    @property
    def num_streams(self) -> int:
        """Return S, the number of audio streams and the text stream."""

    @property
    def text_row(self) -> int:
        """Return the index of the text row."""

    @property
    def text_vocab_size(self) -> int:
        """Return V, the size of the backbone's vocabulary."""

    @property
    def end_of_text_id(self) -> int:
        """Return the id that ends a text."""

    @property
    def pad_t(self) -> int:
        """Return the text row's id where there is no text."""

    @property
    def pad_a(self) -> int:
        """Return an audio row's id where there is no audio."""


@dataclass
class GridBatch:
    """Holds grids as tensors."""

    tokens: Tensor  # (B,S,T) int64, right-padded with pad tokens
    # The spoken turns of each row: (first column, speech embeddings (L,D)).
    speech: Sequence[Sequence[tuple[int, Tensor]]] = ()
    speaker: Tensor | None = None  # (B,) speaker index, or None
    speaker_mask: Tensor | None = None  # (B,T) bool, columns that get the speaker embedding (the answer)


class Embedded(NamedTuple):
    """Holds a grid's embeddings before they are merged."""

    text: Tensor  # (B,T,D)
    speech: Tensor | None  # (B,T,D) in spoken turns, zero elsewhere; None without spoken turns
    audio: Tensor  # (B,T,W), the sum over the streams; zero in spoken turns
    voice: Tensor | None  # (B,T,W), the speaker's in the answer, zero elsewhere; None without a speaker


class Merged(NamedTuple):
    """Holds the merged embeddings that backbone and output adapter read."""

    backbone: Tensor  # (B,T,D)
    adapter: Tensor | None  # (B,T,W), what the output adapter reads besides states; None: nothing


class Line(Protocol):
    """Describes the talking model, as far as a route uses it."""

    merge: str
    backbone: Backbone
    output_adapter: OutputAdapter

    @property
    def layout(self) -> Layout:
        """Return the layout of the grid."""

    def embed(self, batch: GridBatch, always: bool = False) -> Merged:
        """Embed the streams and merge them by :meth:`Route.merge`; `always` looks up every table, needed or not."""

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of all audio streams, (B,T,W) -> (B,K,T,C+specials)."""


class Lane(Protocol):
    """Selects the rows of a step that one part works on, and holds its caches for them."""

    def __len__(self) -> int:
        """Return how many rows there are; a part without any isn't run."""

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Run a part on these rows.

        Args:
            part: Called with a cache and the inputs of its rows; returns tensors with as many rows.
            inputs: (R,...) each, of all rows of the step.

        Returns:
            What `part` returned, (R,...) each; zero in rows that aren't selected.
        """


class Columns(NamedTuple):
    """Holds the columns to continue with."""

    tokens: Tensor  # (R,S,T)
    merged: Merged  # their embeddings


class Hidden(NamedTuple):
    """Holds what the heads read, for all rows of a step."""

    states: BackboneStates  # the backbone's, for the text head
    audio: Tensor | None  # (R,1,W), for the audio heads; None where no row speaks


class Answers(Protocol):
    """Describes the rows of a training pass."""

    tokens: Tensor  # (B,S,T) int64
    loss_mask: Tensor  # (B,S,T) bool
    answer_mask: Tensor  # (B,T) bool, columns of a spoken answer
    speaker: Tensor  # (B,) index of each row's voice

    @property
    def reads(self) -> Tensor:
        """Return which rows read a given text aloud, (B,) bool; the backbone takes no part in their answers."""


class Told(NamedTuple):
    """Holds the arguments of a speech decoder's ``forward``, and (B',T') bool, which steps belong to an answer."""

    audio: Tensor
    text: Tensor
    states: BackboneStates | None
    answered: Tensor


class Spoken(NamedTuple):
    """Holds what the audio loss reads: ``hidden[:, t]`` predicts the tokens of column t + 1."""

    hidden: Tensor  # (B',T',W)
    tokens: Tensor  # (B',S,T')
    loss_mask: Tensor  # (B',S,T')
    told: Told | None = None  # what a speech decoder got, for its own losses; None on other routes


class StreamLogits(Protocol):
    """Gives the logits of one column stream by stream, while its codes are chosen."""

    def of(self, stream: int, chosen: Sequence[int]) -> Tensor:
        """Return a stream's logits (1,C+specials), given the tokens of the streams before it in this column."""


class ParallelLogits:
    """Holds the logits of all streams, none of which depends on what was chosen in another.

    Args:
        logits: (K,C+specials).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def of(self, stream: int, chosen: Sequence[int]) -> Tensor:
        return self.logits[stream : stream + 1]


class Route(ABC):
    """Decides how an answer's audio is fed back. It keeps no state: that is in the lanes' caches."""

    num_rows: int  # rows that decode one spoken answer in parallel (paper 3.2): 2 where audio disturbs the text
    # Whether the output adapter runs over the prompt too, so that a conversation has to keep its cache.
    reads_prompt: bool

    @abstractmethod
    def seen(self, layout: Layout) -> slice:
        """Return the grid's rows that the backbone sees; columns that are equal in these needn't be read again."""

    @abstractmethod
    def needs_backbone(self, writes: bool) -> bool:
        """Return whether an answer needs the backbone's next states; `writes` says that its text isn't finished."""

    @abstractmethod
    def merge(self, line: Line, parts: Embedded) -> Merged:
        """Return what the backbone reads, and what the output adapter reads besides its states."""

    @abstractmethod
    def prefill(self, line: Line, states: BackboneStates, prompt: Columns, cache: Cache | None) -> Tensor:
        """Run the output adapter up to the first column of R answers.

        Args:
            line: The model.
            states: (R,T,D) of these columns; zero if an answer doesn't need the backbone.
            prompt: (R,S,T). If the route :attr:`reads_prompt`: the columns of one answer that `cache` doesn't hold
                yet. Otherwise the last column of each prompt.
            cache: The output adapter's cache, of R rows.

        Returns:
            (R,1,W), from which the first columns are chosen.
        """

    @abstractmethod
    def step(self, line: Line, columns: Columns, backbone: Lane, adapter: Lane) -> Hidden:
        """Run both parts for one more column of each row."""

    @abstractmethod
    def train(self, line: Line, answers: Answers, states: BackboneStates | None, always: bool = False) -> Spoken:
        """Run the output adapter over whole answers at once.

        Args:
            line: The model.
            answers: The rows of the pass.
            states: (B,T,D) of whole grids; None if no row :meth:`needs_backbone`.
            always: Whether to look up every table, needed or not.
        """

    def logits(self, line: Line, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (K,n,C+specials) from which (n,W) predicts the (K,n) tokens."""
        return line.audio_logits(hidden[None])[0]

    def choices(self, line: Line, hidden: Tensor) -> Sequence[StreamLogits]:
        """Return the logits of one column for each of n answers, from (n,1,W)."""
        # Tokens are chosen on the CPU: one copy waits for the GPU once, not once for each stream.
        return [ParallelLogits(row) for row in line.audio_logits(hidden)[:, :, 0].cpu()]
