"""Chooses the tokens of an answer: which are legal, which is taken, and where text and sound end.

This module knows token ids and columns. It runs no model and knows nothing of sound files or codecs, and of text
only which strings end it.

Batch-parallel decoding (paper 3.2) uses two rows, the second with a text-only prompt. Text is sampled from the second
row and audio from the first, and both are fed the same text token, so the text is what the model would write if it
didn't speak. The second row is dropped once the text has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Answer, Column
from anytalk.decode.arriving import ArrivingText
from anytalk.decode.reach import REACH
from anytalk.decode.sampling import GREEDY, SamplingOptions, choose, on_host
from anytalk.decode.stopping import StopStrings, WrittenAhead
from anytalk.errors import AnytalkError, ConfigError
from anytalk.grid.delay import DelayPattern
from anytalk.grid.prompts import Prompt
from anytalk.grid.tokens import StreamLayout
from anytalk.model.talk_model import TalkModel
from anytalk.plugins.contracts import StreamLogits


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Options for generating an answer."""

    text: SamplingOptions = GREEDY  # sampling of the text row
    # Sampling of the audio rows: one for all, or one per stream.
    audio: SamplingOptions | tuple[SamplingOptions, ...] = GREEDY
    batch_parallel: bool = True  # whether text comes from a row of its own
    max_columns: int = 512  # the most columns that an answer may have
    # `"staircase"` allows legal tokens only. `"original"` is Mini-Omni's loop: every id may be sampled, audio ends when
    # the last stream says eoa, and the first sampled column can't end anything.
    rule: str = "staircase"
    beginnings: tuple[tuple[int, ...], ...] = ()  # the text begins with one of these token sequences; (): with any
    stops: tuple[str, ...] = ()  # the text ends before the first of these strings; no part of one is told or spoken
    seed: int | None = None  # seeds the random state; None uses torch's global one
    # After the text's end: how many columns of speech the model looks back at, besides the prompt and the columns with
    # text (`anytalk.decode.reach`); 0 for all.
    reach: int = REACH


def no_mark(name: str) -> None:
    """Do nothing; the default of ``Session.mark``."""


def legal_text(logits: Tensor, layout: StreamLayout) -> Tensor:
    """Mask every special token but eot in text logits (R,V+specials); logits (R,V) are returned unchanged."""
    if logits.shape[-1] == layout.text_vocab_size:
        return logits
    is_legal = torch.arange(logits.shape[-1], device=logits.device) <= layout.eot
    return logits.masked_fill(~is_legal, -torch.inf)


class Generation:
    """Chooses the tokens of one answer, kept in :attr:`answer`; :mod:`anytalk.decode.runner` runs the model."""

    def __init__(
        self,
        model: TalkModel,
        pattern: DelayPattern,
        options: DecodeOptions,
        prompts: Sequence[Prompt],
        speech: Sequence[Tensor],
        *,
        audio_out: bool,
        given_text: Sequence[int] | None = None,
        arriving: ArrivingText | WrittenAhead | None = None,
        speaker: int | None = None,
        mark: Callable[[str], None] = no_mark,
    ) -> None:
        """Prepare an answer; nothing runs yet.

        Args:
            model: The model, in eval mode.
            prompts: One prompt, or two for batch-parallel decoding: the one that speaks, then the text-only one.
            speech: Speech embeddings (L,D), one for each span of the prompt.
            given_text: Text ids, without the end token, that are used instead of generated text: the text to read aloud
                (T1A1) or the recognised words (A1T1).
            arriving: The text of a served model, or one that is written ahead, instead of `given_text`. A column can be
                chosen only once its token has arrived (:attr:`is_waiting`).
            speaker: Row of the speaker embedding.
            mark: Called with ``"prefilled"`` when the prompt has been read.
        """
        if options.rule not in ("staircase", "original"):
            raise ConfigError(f"unknown decode rule '{options.rule}'", "use 'staircase' or 'original'")
        streams = model.layout.num_audio_streams
        audio = (options.audio,) * streams if isinstance(options.audio, SamplingOptions) else options.audio
        if len(audio) != streams:
            raise ConfigError(
                f"{len(audio)} sampling options for {streams} audio streams", "give one, or one for each stream"
            )
        self.model = model
        self.options = options
        self.prompts = prompts
        self.speech = speech
        self.audio_out = audio_out
        self.given_text = given_text if arriving is None else arriving.ids
        self.arriving = arriving
        self.speaker = speaker
        self.mark = mark
        self.answer = Answer(pattern, text_ended=False)
        self._audio_sampling = audio
        # Mini-Omni's own rule knows one end only; and where the grid has an end of its own, the model's don't apply.
        uses_own_end = model.layout.end_of_text_id in model.backbone.end_ids and options.rule == "staircase"
        self._ends = model.backbone.end_ids if uses_own_end else frozenset()
        stops = options.stops if self.given_text is None else ()
        self._stops = StopStrings(stops, model.backbone.tokenizer.decode) if stops else None
        self._generator = None if options.seed is None else torch.Generator().manual_seed(options.seed)
        if audio_out and len(prompts) > model.route.num_rows:
            raise ConfigError(
                "two prompts were given to a talker whose backbone isn't fed its own speech",
                "give one: speech can't disturb its text, so batch-parallel decoding would change nothing",
            )

    @property
    def is_given(self) -> bool:
        """Whether the whole answer is known already, because its text is given and isn't spoken; no model runs then."""
        return self.given_text is not None and self.arriving is None and not self.audio_out

    @property
    def writer(self) -> Generation | None:
        """Return the generation that writes this one's text ahead of its voice, or None."""
        return self.arriving.writer if isinstance(self.arriving, WrittenAhead) else None

    @property
    def written(self) -> Answer:
        """Return the answer that holds the text: the writer's, or this one's."""
        return self.answer if self.writer is None else self.writer.answer

    @property
    def is_waiting(self) -> bool:
        """Whether the next column has to wait for text from a served model or a writer."""
        arriving, answer = self.arriving, self.answer
        return arriving is not None and not answer.text_ended and not arriving.has(len(answer.text_ids))

    @property
    def error(self) -> AnytalkError | None:
        """Return the error that ended a served model's text early; what arrived before it is still spoken."""
        return None if self.arriving is None else self.arriving.error

    @property
    def has_failed(self) -> bool:
        """Whether a served model's text failed before its first token, so that there is nothing to say."""
        return self.error is not None and not self.given_text

    @property
    def was_cut(self) -> bool:
        """Whether the text of a served model or a writer was cut off at its maximum length."""
        return self.arriving is not None and self.arriving.was_cut

    def close(self) -> None:
        """Cancel the request to a served model, if there is one."""
        if self.arriving is not None:
            self.arriving.close()

    def given_columns(self) -> Iterator[Column]:
        """Yield the columns of an answer that :attr:`is_given`."""
        self.mark("prefilled")
        for index in range(self.options.max_columns):
            column = self.choose(None, None, index)
            if column is not None:
                yield column
            if column is None or self.is_done(index):
                self.answer.finish_reason = "stop"
                return
        self.answer.finish_reason = "length"

    @property
    def writes(self) -> bool:
        """Whether the next column's text is sampled, so that :meth:`choose` needs text logits."""
        return self.given_text is None and not self.answer.text_ended

    def choose(self, text_logits: Tensor | None, audio_logits: StreamLogits | None, index: int) -> Column | None:
        """Choose a column and add it to the answer.

        Args:
            text_logits: (1,V) of the row that writes; ignored unless the answer `writes`.
            audio_logits: Logits of the row that speaks; None in tasks without speech.
            index: Index of the column in the answer, counted from 0 without gaps.

        Returns:
            The column, or None if the rule ``"original"`` ends before it.
        """
        answer = self.answer
        # Text is chosen first: it doesn't depend on this column's audio.
        text = self._next_text(None if text_logits is None else on_host(text_logits), index)
        audio = None if audio_logits is None else self._next_audio(audio_logits, index)
        if self._original_end(text, audio, index):
            return None
        ends_text = text == self.model.layout.end_of_text_id and not self._ignores_end(index)
        if not answer.text_ended and not ends_text:
            answer.text_ids.append(text)
            if self._stops is not None:
                self._stops.read(answer)
        elif not answer.text_ended and self.arriving is not None:
            answer.stopped_by = self.arriving.stopped_by
        if audio is not None:
            answer.columns.append(audio)
            self._note_audio_end(audio, index)
        # The column that ends the text still has that token; the ones after it have none.
        was_ended = answer.text_ended
        answer.text_ended = was_ended or ends_text or answer.stopped_by is not None
        return Column(index, None if was_ended else text, audio)

    def next_text(self, column: Column) -> int:
        """Return the text token that is fed back with a column; after the text's end it is a pad."""
        return self.model.layout.pad_t if column.text is None else column.text

    # ---- choosing tokens

    def _next_text(self, logits: Tensor | None, index: int) -> int:
        layout, answer = self.model.layout, self.answer
        if answer.text_ended:
            return layout.pad_t
        if self.given_text is not None:
            return self.given_text[index] if index < len(self.given_text) else layout.end_of_text_id
        assert logits is not None, "an answer that writes needs text logits"
        if self.options.rule == "staircase":
            logits = legal_text(logits, layout)
        allowed = self._allowed_by_beginnings()
        if allowed:
            is_allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            is_allowed[allowed] = True
            logits = logits.masked_fill(~is_allowed, -torch.inf)
        recent = torch.tensor([answer.text_ids], device=logits.device)
        token = int(choose(logits, self.options.text, recent, self._generator))
        # The grid has a single end of text; the model's other end tokens are mapped to it.
        return layout.end_of_text_id if token in self._ends else token

    def _allowed_by_beginnings(self) -> list[int]:
        """Return the tokens that may come next while the text is still in one of the beginnings; [] if any may."""
        said = tuple(self.answer.text_ids)
        return [ids[len(said)] for ids in self.options.beginnings if len(ids) > len(said) and ids[: len(said)] == said]

    def _next_audio(self, logits: StreamLogits, index: int) -> np.ndarray:
        """Choose one audio column (K,), stream by stream."""
        layout, answer = self.model.layout, self.answer
        enforce = self.options.rule == "staircase"
        column = np.empty(layout.num_audio_streams, dtype=np.int64)
        # Without a penalty no earlier column is needed, which spares stacking them.
        window = max(s.repetition_window if s.repetition_penalty != 1.0 else 0 for s in self._audio_sampling)
        recent = torch.from_numpy(np.stack(answer.columns[-window:], axis=1)) if answer.columns and window else None
        num_frames = answer.num_frames
        for stream, sampling in enumerate(self._audio_sampling):
            row = on_host(logits.of(stream, column[:stream].tolist()))
            if enforce:
                # The pattern forces pads and ends. A choice is left among codes, and for stream 0 whether to end.
                legal = answer.pattern.legal(
                    stream, index, num_frames, num_text=len(answer.text_ids), text_ended=answer.text_ended
                )
                if legal.is_forced:
                    column[stream] = layout.pad_a if legal.may_pad else layout.eoa
                    continue
                # Only the codes of this stream, and perhaps its end, may be sampled.
                mask = torch.full_like(row, -torch.inf)
                mask[:, legal.first : legal.stop] = 0.0
                if legal.may_end:
                    mask[:, layout.eoa] = 0.0
                row = row + mask
            before = None if recent is None else recent[stream : stream + 1].to(row.device)
            column[stream] = int(choose(row, sampling, before, self._generator))
            if enforce and stream == 0 and column[0] == layout.eoa:
                # Streams without a delay between them must end in this same column.
                num_frames = answer.pattern.frames_at_end(index, len(answer.text_ids))
        return column

    # ---- ends

    def _ignores_end(self, index: int) -> bool:
        """Return whether an end is ignored: the original never checks the column that the prompt predicts."""
        return self.options.rule == "original" and index == 0

    def _original_end(self, text: int, audio: np.ndarray | None, index: int) -> bool:
        """Return whether the original rule stops here: on the last stream's eoa, or without speech on eot.

        The column itself is dropped.
        """
        if self.options.rule != "original" or index == 0:
            return False
        if audio is not None:
            if audio[-1] != self.model.layout.eoa:
                return False
            self.answer.num_frames = self.answer.pattern.frames_ready(index, len(self.answer.text_ids))
            return True
        return text == self.model.layout.end_of_text_id

    def _note_audio_end(self, audio: np.ndarray, index: int) -> None:
        answer = self.answer
        if self.options.rule == "staircase" and answer.num_frames is None and audio[0] == self.model.layout.eoa:
            answer.num_frames = answer.pattern.frames_at_end(index, len(answer.text_ids))

    def is_done(self, index: int) -> bool:
        """Return whether the answer is complete with this column."""
        answer = self.answer
        if self.options.rule == "original":
            return not self.audio_out and answer.stopped_by is not None
        if not self.audio_out:
            return answer.text_ended
        if answer.num_frames is None or not answer.text_ended:
            return False
        return index + 1 >= answer.pattern.num_columns(answer.num_frames, len(answer.text_ids))
