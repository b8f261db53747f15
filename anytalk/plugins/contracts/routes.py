"""The contract of a route: how an answer's audio is fed back, and which parts run in which step.

The model's own two are :mod:`anytalk.model.routes`; an output adapter may bring another one
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
    """Rows and token ids of the grid; see :class:`anytalk.grid.tokens.StreamLayout`."""

    @property
    def num_audio_streams(self) -> int:
        """K."""

    @property
    def num_streams(self) -> int:
        """S."""

    @property
    def text_row(self) -> int:
        """Row of the text stream."""

    @property
    def text_vocab_size(self) -> int:
        """V."""

    @property
    def end_of_text_id(self) -> int:
        """The id that ends a text."""

    @property
    def pad_t(self) -> int:
        """Text row where there is no text."""

    @property
    def pad_a(self) -> int:
        """Audio row where there is no audio."""


@dataclass
class GridBatch:
    """Grids as tensors."""

    tokens: Tensor  # (B,S,T) int64, right-padded with pad tokens
    # For each row, (first column, speech embeddings (L,D)) of its spoken turns.
    speech: Sequence[Sequence[tuple[int, Tensor]]] = ()
    speaker: Tensor | None = None  # (B,) speaker index, or None
    speaker_mask: Tensor | None = None  # (B,T) bool, columns that get the speaker embedding (the answer)


class Embedded(NamedTuple):
    """A grid's embeddings, not merged yet."""

    text: Tensor  # (B,T,D)
    speech: Tensor | None  # (B,T,D) spoken turns, zero elsewhere; None without any
    audio: Tensor  # (B,T,W), the sum over the streams; zero in spoken turns
    voice: Tensor | None  # (B,T,W) of the speaker in the answer, zero elsewhere; None without any


class Merged(NamedTuple):
    """What the parts read."""

    backbone: Tensor  # (B,T,D)
    adapter: Tensor | None  # (B,T,W), what the output adapter reads beside the backbone's states; None: nothing


class Line(Protocol):
    """The talking model, as far as a route uses it."""

    merge: str
    backbone: Backbone
    output_adapter: OutputAdapter

    @property
    def layout(self) -> Layout:
        """Of the grid."""

    def embed(self, batch: GridBatch, always: bool = False) -> Merged:
        """Look up the streams and merge them by :meth:`Route.merge`; `always`: each table, needed or not."""

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """(B,T,W) -> (B,K,T,C+specials)."""


class Lane(Protocol):
    """The rows of a step that one part works on, and its caches of them."""

    def __len__(self) -> int:
        """Return how many rows; a part without any isn't run."""

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Run a part on these rows.

        Args:
            part: Called with a cache and the inputs of its rows; returns tensors of as many rows.
            inputs: (R,...) each, of all rows of the step.

        Returns:
            What `part` returned, (R,...) each: zero in rows that aren't here.
        """


class Columns(NamedTuple):
    """Columns to go on with."""

    tokens: Tensor  # (R,S,T)
    merged: Merged  # their embeddings


class Hidden(NamedTuple):
    """What the heads read, for all rows of a step."""

    states: BackboneStates  # the backbone's, for the text head
    audio: Tensor | None  # (R,1,W), for the audio heads; None where no row speaks


class Answers(Protocol):
    """What a training pass knows of its rows."""

    tokens: Tensor  # (B,S,T) int64
    loss_mask: Tensor  # (B,S,T) bool
    answer_mask: Tensor  # (B,T) bool, columns of a spoken answer
    speaker: Tensor  # (B,) voice of each row

    @property
    def reads(self) -> Tensor:
        """(B,) bool, rows that read a given text aloud: the backbone has no part in such an answer."""


class Told(NamedTuple):
    """What a speech decoder got: the arguments of its ``forward``, and (B,W) bool, steps that belong to an answer."""

    audio: Tensor
    text: Tensor
    states: BackboneStates | None
    answered: Tensor


class Spoken(NamedTuple):
    """What the audio loss reads: ``hidden[:, t]`` predicts the tokens of column t + 1."""

    hidden: Tensor  # (B',T',W)
    tokens: Tensor  # (B',S,T')
    loss_mask: Tensor  # (B',S,T')
    told: Told | None = None  # what a speech decoder got, for its own losses; None on other routes


class StreamLogits(Protocol):
    """The logits of one column, stream by stream, as its codes are chosen."""

    def of(self, stream: int, chosen: Sequence[int]) -> Tensor:
        """(1,C+specials) of a stream, given the tokens of the streams before it in this column."""


class ParallelLogits:
    """All streams at once: no stream depends on what another one chose.

    Args:
        logits: (K,C+specials).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def of(self, stream: int, chosen: Sequence[int]) -> Tensor:
        """(1,C+specials)."""
        return self.logits[stream : stream + 1]


class Route(ABC):
    """How an answer's audio is fed back. It keeps nothing: all memory is in the lanes' caches."""

    num_rows: int  # rows that decode one spoken answer in parallel (paper 3.2): 2 where audio disturbs the text
    # Whether the output adapter runs over the prompt too, so that a conversation has to keep its cache.
    reads_prompt: bool

    @abstractmethod
    def seen(self, layout: Layout) -> slice:
        """Return the grid's rows that the backbone sees: columns that are equal in these need not be read again."""

    @abstractmethod
    def needs_backbone(self, writes: bool) -> bool:
        """Return whether an answer needs the backbone's next states; `writes`: its text is still being written."""

    @abstractmethod
    def merge(self, line: Line, parts: Embedded) -> Merged:
        """Return what the backbone reads and what the output adapter reads beside it."""

    @abstractmethod
    def prefill(self, line: Line, states: BackboneStates, prompt: Columns, cache: Cache | None) -> Tensor:
        """Run the output adapter up to the first column of R answers.

        Args:
            line: The model.
            states: (R,T,D) of these columns; zero where an answer doesn't need the backbone.
            prompt: (R,S,T). Where the route :attr:`reads_prompt`: of one answer, the columns that `cache` doesn't hold
                yet. Otherwise the last column of each prompt.
            cache: The output adapter's, of R rows.

        Returns:
            (R,1,W), from which the first columns are chosen.
        """

    @abstractmethod
    def step(self, line: Line, columns: Columns, backbone: Lane, adapter: Lane) -> Hidden:
        """Return one more column of each row, through both parts."""

    @abstractmethod
    def train(self, line: Line, answers: Answers, states: BackboneStates | None, always: bool = False) -> Spoken:
        """Return whole answers at once.

        Args:
            line: The model.
            answers: The rows of a pass.
            states: (B,T,D) of whole grids; None where no row :meth:`needs_backbone`.
            always: Look up every table, needed or not.
        """

    def logits(self, line: Line, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(n,W) and the (K,n) tokens to be predicted -> (K,n,C+specials)."""
        return line.audio_logits(hidden[None])[0]

    def choices(self, line: Line, hidden: Tensor) -> Sequence[StreamLogits]:
        """(n,1,W) -> the logits of one column for each of n answers."""
        # Tokens are chosen on the CPU: a GPU is waited for once, not once for each stream.
        return [ParallelLogits(row) for row in line.audio_logits(hidden)[:, :, 0].cpu()]
