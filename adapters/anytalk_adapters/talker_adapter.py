"""Implements the output adapter ``talker``: a small speech decoder that reads the text letter by letter.

Audio tokens are fed back into the adapter only, so the backbone runs once per text token and audio never affects the
text. This follows Qwen2.5-Omni's talker (arXiv 2503.20215) and LLaMA-Omni 2 (arXiv 2505.02625). Two things are new. The
adapter reads the *letters* of each text token, because letters tell how a rare token is pronounced and a table of
tokens doesn't. And when a letter arrives, the adapter predicts how long it takes to speak: FastSpeech's durations
(arXiv 1905.09263), but of letters and without an aligner. Speech attends to letters by the time at which they are
spoken (``talker_layers``), so it can't lose its place in the text.

Durations are learned from the lengths of whole answers (loss ``pace``). While everything else trains, an answer's
durations are scaled to its true length, so that letters are where they were really spoken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneStates, Cache, ForwardPass, Loss, LossRow, SpeechDecoder, TextTokenizer

from .spelling import END, NUM_LETTERS, PADDING, START, Spelling
from .talker_layers import FAR, HEAD_WIDTH, NEVER, LetterBlock, SpeechBlock, TalkerMemory

_SOFTPLUS_OF_ONE = 0.5413  # softplus of it is 1: a letter takes its expected number of steps at first
_FIRST_RIMS = (3.6, 10.4)
"""Initial steps before the first letter and after the last one: a little silence, and the steps that the delay pattern
of seven streams with a text lead of two adds."""
_RIM_UNIT = 10.0
"""Steps per unit of the parameter, because an optimizer's step is never larger than its learning rate."""
_TABLE_STD = 0.1
"""Initial size of a step's summed audio embeddings: small against letters, so that the two can be told apart."""
_DIGITS = range(ord("0"), ord("9") + 1)
_LETTER_STEPS, _DIGIT_STEPS = 1.0, 4.0
"""Steps that a letter and a digit take before training; a digit is spoken as a whole word."""


class LetterTimes(nn.Module):
    """Predicts how many steps each letter takes to speak."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.duration = nn.Linear(width, 1)
        self.rims = nn.Parameter(torch.tensor(_FIRST_RIMS) / _RIM_UNIT)
        nn.init.zeros_(self.duration.weight)
        nn.init.constant_(self.duration.bias, _SOFTPLUS_OF_ONE)

    def forward(self, x: Tensor, expected: Tensor, codes: Tensor) -> Tensor:
        """Return (B,n) steps for letters (B,n,W') with (B,n) expected steps and (B,n) bytes."""
        durations = F.softplus(self.duration(x)[..., 0].float()) * expected
        # Silence before and after the text has learned lengths of its own.
        for rim, code in zip(self.rims.abs() * _RIM_UNIT, (START, END), strict=True):
            durations = torch.where(codes == code, rim, durations)
        return durations


class TalkerAdapter(SpeechDecoder):
    """Turns the letters of the text and past speech into the input of the audio heads."""

    licence = "MIT"
    table_std = _TABLE_STD

    class Options(plugins.Options):
        width: int = Field(384, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH, description="Width of the speech decoder.")
        num_layers: int = Field(4, ge=1, description="Layers of the speech decoder.")
        hidden_width: int | None = Field(None, ge=1, description="Hidden units of its MLPs; null: 3.5 widths.")
        letter_width: int = Field(256, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH, description="Width of the letters.")
        num_letter_layers: int = Field(2, ge=0, description="Layers of the letter encoder.")
        max_letters: int = Field(24, ge=1, description="Bytes of one text token that are read, at most.")
        reads_states: bool = Field(
            False,
            description="Also read the backbone's states; without them it fits any backbone.",
        )
        state_dropout: float = Field(
            0.1, ge=0, lt=1, description="Share of answers trained without the backbone's states."
        )
        audio_dropout: float = Field(
            0.0,
            ge=0,
            le=0.5,
            description="Mean share of steps with hidden past audio in training, so that the letters are used.",
        )

    def __init__(self, options: TalkerAdapter.Options, backbone_width: int, tokenizer: TextTokenizer) -> None:
        super().__init__()
        width, letter_width = options.width, options.letter_width
        self.options = options
        self.reads_states = options.reads_states
        self.letters = nn.Embedding(NUM_LETTERS, letter_width)
        self.place = nn.Embedding(options.max_letters, letter_width)
        self.state_norm = nn.LayerNorm(backbone_width, elementwise_affine=False) if options.reads_states else None
        self.state_in = nn.Linear(backbone_width, letter_width) if options.reads_states else None
        self.letter_blocks = nn.ModuleList(
            LetterBlock(letter_width, 4 * letter_width) for _ in range(options.num_letter_layers)
        )
        self.letter_norm = nn.LayerNorm(letter_width)
        self.times = LetterTimes(letter_width)
        hidden = options.hidden_width or int(3.5 * width)
        self.speech_blocks = nn.ModuleList(SpeechBlock(width, letter_width, hidden) for _ in range(options.num_layers))
        self.norm = nn.LayerNorm(width)
        self._spelling = Spelling(tokenizer, options.max_letters)
        for table in (self.letters, self.place):
            nn.init.normal_(table.weight, std=0.5)
        if self.state_in is not None:
            # Nearly zero at first: a decoder that was trained to read aloud then speaks answers equally well.
            nn.init.normal_(self.state_in.weight, std=1e-4)
            nn.init.zeros_(self.state_in.bias)
        # Blocks start with nearly no effect on the residual stream, which keeps deep stacks stable early in training.
        depth = options.num_layers + options.num_letter_layers
        for name, parameter in self.named_parameters():
            if name.endswith(("_out.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=0.02 / depth**0.5)

    @classmethod
    def build(cls, options: TalkerAdapter.Options, context: BuildContext) -> TalkerAdapter:
        backbone = context.need_backbone()
        return cls(options, backbone.width, backbone.tokenizer).to(context.device)

    @property
    def width(self) -> int:
        """Return the decoder's own width W."""
        return self.options.width

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        return TalkerMemory()

    def forward(
        self, audio: Tensor, text: Tensor, states: BackboneStates | None = None, cache: Cache | None = None
    ) -> Tensor:
        memory = cast("TalkerMemory", cache) if cache is not None else TalkerMemory()
        rows, steps = audio.shape[:2]
        places = memory.places(steps, audio.device)
        x, durations = self._read(states, text, memory)
        # Only whole answers: a cache holds steps of an answer that goes on.
        if self.training and cache is None:
            durations = _stretched(durations, spoken_steps(audio))
        letter_times = memory.speak(durations)

        times = places.float().expand(rows, -1)
        assert memory.arrival is not None
        assert memory.middle is not None
        away = memory.middle[:, None, :] - times[:, :, None]  # (B,T,C) steps
        # In training all letters are there at once; each step sees only those that would have arrived.
        hidden = memory.arrival[:, None, :] > places[:, :, None]
        away = away.masked_fill(hidden, FAR)
        h = self._past(audio.to(self.norm.weight.dtype))
        for number, block in enumerate(self.speech_blocks):
            h = block(h, times, x, letter_times, away, memory, str(number))
        memory.advance(steps)
        return cast("Tensor", self.norm(h))

    def losses(self) -> list[Loss]:
        """Return the loss ``pace``."""
        return [PaceLoss(self)]

    def pace(self, audio: Tensor, text: Tensor, states: BackboneStates | None = None) -> Tensor:
        """Return the (B,) error in steps of each answer's length, as predicted from its text.

        Args:
            audio: (B,T,W) merged audio embeddings of whole answers, zero after their ends.
            text: (B,T) int64.
            states: See :meth:`forward`.
        """
        _, durations = self._read(states, text, TalkerMemory())
        return (durations.sum(dim=1) - spoken_steps(audio)).abs()

    def _read(self, states: BackboneStates | None, text: Tensor, memory: TalkerMemory) -> tuple[Tensor, Tensor]:
        """Return the letters that arrive with these steps, (B,n,W'), and the (B,n) steps that each takes to speak."""
        device = text.device
        first = memory.places(1, device)
        letters, places, sources, ends = self._spell(text.tolist(), memory)
        codes = torch.tensor(letters, device=device)
        source = torch.tensor(sources, device=device)  # (B,n) index of the step among these, NEVER for empty slots
        arrival = torch.where(source == NEVER, NEVER, source + first)
        # The start symbol arrives before all steps.
        arrival = torch.where(codes == START, -1, arrival)
        end = torch.tensor(ends, device=device, dtype=torch.float32)
        memory.arrive(arrival, end)
        expected = _expected(codes)
        x = self.letters(codes) + self.place(torch.tensor(places, device=device))
        if states is not None and self.state_in is not None:
            x = x + self._states(states.normed, source)
        assert memory.arrival is not None
        # A letter sees all letters of its own token, whatever their order.
        seen = memory.arrival[:, None, :] <= arrival[:, :, None]
        # Empty slots attend to everything, themselves included. Their output isn't used, but NaN would spread.
        for number, block in enumerate(self.letter_blocks):
            x = block(x, end - expected / 2, seen, memory, f"encoder.{number}")
        x = self.letter_norm(x)
        return x, self.times(x, expected, codes) * (codes != PADDING)

    def _states(self, normed: Tensor, source: Tensor) -> Tensor:
        """Return what the backbone's states (B,T,D) add to each letter of their tokens, (B,n,W')."""
        known = (normed != 0).any(dim=-1, keepdim=True)  # states of steps without text are zero
        if self.training and self.options.state_dropout:
            kept = torch.rand(len(normed), 1, 1, device=normed.device) >= self.options.state_dropout
            known = known & kept
        assert self.state_in is not None
        assert self.state_norm is not None
        found = self.state_in(self.state_norm(normed.to(self.state_in.weight.dtype))) * known
        index = source.clamp(max=normed.shape[1] - 1)
        found = found.gather(1, index[:, :, None].expand(-1, -1, found.shape[-1]))
        shown: Tensor = found * (source != NEVER)[:, :, None]
        return shown

    def _past(self, audio: Tensor) -> Tensor:
        """Hide some audio embeddings (B,T,W) in training, like the dropout in Tacotron's prenet (arXiv 1703.10135)."""
        past = audio
        if self.training and self.options.audio_dropout:
            # Shares differ between answers, from 0 to twice the mean: some answers have to be learned from letters.
            share = 2 * self.options.audio_dropout * torch.rand(len(past), 1, 1, device=past.device)
            past = past * (torch.rand(*past.shape[:2], 1, device=past.device) >= share)
        return past

    def _spell(
        self, ids: list[list[int]], memory: TalkerMemory
    ) -> tuple[list[list[int]], list[list[int]], list[list[int]], list[list[float]]]:
        """Return the letters of each row, their places in their tokens, their steps and the times of their ends.

        Rows are padded to one length. Steps are counted from the first of these tokens.
        """
        if memory.arrival is None or memory.end is None:
            before = [0.0] * len(ids)
        else:
            before = torch.where(memory.arrival < NEVER, memory.end, 0.0).amax(dim=1).tolist()
        rows: list[list[tuple[int, int, int, float]]] = []
        for row, time in zip(ids, before, strict=True):
            line: list[tuple[int, int, int, float]] = []
            if memory.arrival is None:
                line.append((START, 0, 0, 0.0))
            for step, token in enumerate(row):
                for place, letter in enumerate(self._spelling.letters_of(token)):
                    time += _DIGIT_STEPS if letter in _DIGITS else _LETTER_STEPS
                    line.append((letter, place, step, time))
            rows.append(line)
        longest = max(1, max(len(line) for line in rows))
        empty = (PADDING, 0, NEVER, 0.0)
        rows = [line + [empty] * (longest - len(line)) for line in rows]
        columns = [[[slot[part] for slot in line] for line in rows] for part in range(4)]
        return columns[0], columns[1], columns[2], columns[3]  # type: ignore[return-value]


class PaceLoss(Loss):
    """Implements the loss ``pace``: the error of predicted answer lengths, in steps per step of speech."""

    name = "pace"

    def __init__(self, decoder: TalkerAdapter) -> None:
        self._decoder = decoder

    def counts(self, row: LossRow) -> list[int]:
        """Return the number of steps with speech."""
        return [int(row.loss_mask[0].sum())]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        """Return the (1,) sum of errors in steps."""
        if line.spoken is None:
            return torch.zeros(1, device=line.device)
        told = line.spoken.told
        assert told is not None
        wrong = self._decoder.pace(told.audio, told.text, told.states)
        return (wrong * told.answered.any(dim=1)).sum()[None]


def spoken_steps(audio: Tensor) -> Tensor:
    """Return the (B,) number of steps up to the last one with audio in (B,T,W); 0 if there is none."""
    steps = torch.arange(1, audio.shape[1] + 1, device=audio.device)
    return ((audio != 0).any(dim=-1) * steps).amax(dim=1)


def _expected(codes: Tensor) -> Tensor:
    """Return how many steps each letter (B,n) takes before training, (B,n); the start symbol takes none."""
    digit = (codes >= _DIGITS.start) & (codes < _DIGITS.stop)
    return torch.where(digit, _DIGIT_STEPS, _LETTER_STEPS).masked_fill(codes == START, 0.0)


def _stretched(durations: Tensor, steps: Tensor) -> Tensor:
    """Scale durations (B,n) so that each row takes (B,) steps; no gradient passes."""
    durations = durations.detach()
    return durations * torch.where(steps > 0, steps / durations.sum(dim=1).clamp(min=1e-3), 1.0)[:, None]
