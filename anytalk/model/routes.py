"""Implements the two routes by which an answer's audio is fed back: through the backbone (the paper), or beside it.

No other module distinguishes them. Their contract is :class:`anytalk.plugins.contracts.Route`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.model.windows import answer_windows
from anytalk.plugins.contracts import (
    END_OF_TEXT,
    NO_TEXT,
    Answers,
    BackboneAdapter,
    BackboneStates,
    Cache,
    Columns,
    Embedded,
    GridBatch,
    Hidden,
    Lane,
    Layout,
    Line,
    Merged,
    OutputAdapter,
    Route,
    SpeechDecoder,
    Spoken,
    Told,
)


class ThroughBackbone(Route):
    """Takes the paper's route: the backbone's input contains audio tokens, and the adapter reads all its states."""

    num_rows = 2
    reads_prompt = True

    def seen(self, layout: Layout) -> slice:
        """Return all rows: the backbone sees text and audio."""
        return slice(None)

    def needs_backbone(self, writes: bool) -> bool:
        """Return True: the backbone runs for every column, also after the end of the text."""
        return True

    def merge(self, line: Line, parts: Embedded) -> Merged:
        """Sum text and audio for the backbone; the adapter gets no input of its own."""
        merged = _merged(line, parts.text + parts.audio, parts.speech)
        return Merged((merged if parts.voice is None else merged + parts.voice).to(parts.text.dtype), None)

    def prefill(self, line: Line, states: BackboneStates, prompt: Columns, cache: Cache | None) -> Tensor:
        """Run the adapter over the whole prompt."""
        hidden: Tensor = line.output_adapter(states, cache)
        return hidden[:, -1:]

    def step(self, line: Line, columns: Columns, backbone: Lane, adapter: Lane) -> Hidden:
        """Run the backbone, then the adapter on its states."""
        states = _run_backbone(line, columns, backbone)
        if not len(adapter):
            return Hidden(states, None)
        (hidden,) = adapter.run(lambda cache, *read: (line.output_adapter(BackboneStates(*read), cache),), *states)
        return Hidden(states, hidden)

    def train(self, line: Line, answers: Answers, states: BackboneStates | None, always: bool = False) -> Spoken:
        """Run the adapter over whole grids."""
        assert states is not None
        return Spoken(line.output_adapter(states, None), answers.tokens, answers.loss_mask)


class BesideBackbone(Route):
    """Feeds audio tokens back into a speech decoder, which runs over the answer alone.

    The backbone sees text only and takes one step per text token, so it writes what it would without a voice, and needs
    no second row for that.
    """

    num_rows = 1
    reads_prompt = False

    def seen(self, layout: Layout) -> slice:
        """Return the text row, all that the backbone sees."""
        return slice(layout.text_row, layout.text_row + 1)

    def needs_backbone(self, writes: bool) -> bool:
        """Return whether text is being written: the backbone runs for nothing else."""
        return writes

    def merge(self, line: Line, parts: Embedded) -> Merged:
        """Give the text to the backbone and the audio to the decoder."""
        audio = parts.audio if parts.voice is None else parts.audio + parts.voice
        return Merged(_merged(line, parts.text, parts.speech).to(parts.text.dtype), audio)

    def prefill(self, line: Line, states: BackboneStates, prompt: Columns, cache: Cache | None) -> Tensor:
        """Start the decoder at each prompt's last column, which holds no text token of the answer."""
        audio = prompt.merged.adapter
        assert audio is not None
        text = torch.full(audio.shape[:2], NO_TEXT, device=audio.device)
        hidden: Tensor = line.output_adapter(audio, text, None, cache)
        return hidden

    def step(self, line: Line, columns: Columns, backbone: Lane, adapter: Lane) -> Hidden:
        """Run the backbone on rows that write and the decoder on rows that speak."""
        states = _run_backbone(line, columns, backbone)
        if not len(adapter):
            return Hidden(states, None)
        text, written = _written(line, columns.tokens[:, line.layout.text_row], states)
        assert columns.merged.adapter is not None

        def decode(cache: Cache | None, audio: Tensor, ids: Tensor, *read: Tensor) -> tuple[Tensor]:
            return (line.output_adapter(audio, ids, BackboneStates(*read) if read else None, cache),)

        (hidden,) = adapter.run(decode, columns.merged.adapter, text, *(written or ()))
        return Hidden(states, hidden)

    def train(self, line: Line, answers: Answers, states: BackboneStates | None, always: bool = False) -> Spoken:
        """Run the decoder over the answers, without their prompts."""
        layout = line.layout
        cut = answer_windows(layout, answers.tokens, answers.loss_mask, answers.answer_mask)
        voiced = cut.gather(answers.answer_mask[..., None])[..., 0]
        # Columns after an answer's end are clamped, so their index no longer grows; they get no speaker embedding.
        voiced = voiced & (torch.diff(cut.columns, prepend=cut.columns[:, :1] - 1) > 0)
        audio = line.embed(GridBatch(cut.tokens, (), answers.speaker[cut.rows], voiced), always=always).adapter
        assert audio is not None
        known = None
        if states is not None:
            # When a given text is read aloud, the backbone doesn't run, so training must not use its states either.
            writes = ~answers.reads[cut.rows][:, None, None]
            known = BackboneStates(cut.gather(states.pre_norm) * writes, cut.gather(states.normed) * writes)
        text, written = _written(line, cut.tokens[:, layout.text_row], known)
        hidden = line.output_adapter(audio, text, written, None)
        return Spoken(hidden, cut.tokens, cut.loss_mask, Told(audio, text, written, voiced))


def route_of(adapter: OutputAdapter) -> Route:
    """Return the route of an output adapter (ConfigError: the adapter has none)."""
    own = adapter.own_route()
    if own is not None:
        return own
    if isinstance(adapter, BackboneAdapter):
        return ThroughBackbone()
    if isinstance(adapter, SpeechDecoder):
        return BesideBackbone()
    raise ConfigError(
        f"the output adapter {type(adapter).__name__} has no route",
        "derive it from BackboneAdapter or SpeechDecoder, or give it an own_route()",
    )


def _merged(line: Line, embeds: Tensor, speech: Tensor | None) -> Tensor:
    """Merge streams and speech into one embedding per step, by ``grid.merge``."""
    if speech is not None:
        # Under `mean` the original puts the speech into all K audio rows.
        scale = 1.0 if line.merge == "sum" else float(line.layout.num_audio_streams)
        embeds = embeds + scale * speech
    # The mean divides by S = K + 1 rows, of which K hold the speech.
    return embeds / line.layout.num_streams if line.merge == "mean" else embeds


def _run_backbone(line: Line, columns: Columns, lane: Lane) -> BackboneStates:
    """Run the backbone on the rows in its lane; states of other rows are zero."""
    embeds = columns.merged.backbone
    if not len(lane):
        return BackboneStates(torch.zeros_like(embeds), torch.zeros_like(embeds))
    return BackboneStates(*lane.run(lambda cache, x: cast("BackboneStates", line.backbone(x, cache)), embeds))


def _written(line: Line, ids: Tensor, states: BackboneStates | None) -> tuple[Tensor, BackboneStates | None]:
    """Return the text in the form that speech decoders read, and the states of its tokens, zero in other steps."""
    layout, decoder = line.layout, cast("SpeechDecoder", line.output_adapter)
    # Pads and other special tokens are no text to a speech decoder; the end has a mark of its own.
    is_token = (ids < layout.text_vocab_size) & (ids != layout.end_of_text_id)
    text = torch.where(is_token, ids, NO_TEXT).masked_fill(ids == layout.end_of_text_id, END_OF_TEXT)
    if states is None or not decoder.reads_states:
        return text, None
    known = is_token[..., None]
    return text, BackboneStates(states.pre_norm * known, states.normed * known)
