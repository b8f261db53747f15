"""The speech decoder of the voice `heart`: it reads phonemes and says codes of the codec `heart`.

It decides itself how long each phoneme takes (FastSpeech's durations, arXiv 1905.09263, taught by hibari-tts' own),
so it can't lose its place; every step is shown the phonemes of the frames that it says and of the next two. It reads
nothing of the backbone but its text, so it fits any.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneStates, Cache, SpeechDecoder, TextTokenizer
from anytalk_heart.letters import LetterPronouncer
from anytalk_heart.pronounce import EDGE, SPACE, EnglishPronouncer
from anytalk_heart.reading import Pronouncer, TextReader
from anytalk_heart.script import CONTEXT, LATENTS_PER_STEP, NEVER, WINDOW, Script, first_latent
from anytalk_heart.speaker_layers import HEAD_WIDTH, LatentView, SpeechBlock, UnitEncoder, near

__all__ = ["NUM_UNITS", "HeartSpeaker", "SpeakerMemory"]

NUM_PHONEMES = 178
"""hibari's alphabet."""
END, PADDING = NUM_PHONEMES, NUM_PHONEMES + 1
NUM_UNITS = NUM_PHONEMES + 2
BREAKS = (SPACE, EDGE, END)
_TABLE_STD = 0.1
_LEAD_HINT = "set grid.text_lead to a number of steps, such as the voice's own 9"
_NO_START = 1 << 40
"""Start of a unit that isn't there: later than all latents."""


class SpeakerMemory:
    """What the decoder remembers of answers. Fulfils ``JoinableCache``.

    Attributes:
        steps: Keys and values of the steps.
        scripts: The units of each row and their times.
        encoded: (n,U) of each row, its units that have a duration.
    """

    def __init__(self) -> None:
        self.steps = KeyValueCache(0)
        self.scripts: list[Script] = []
        self.encoded: list[Tensor] = []

    @property
    def length(self) -> int:
        """Steps of the longest row."""
        return self.steps.length

    def begin(self, scripts: list[Script], width: int) -> None:
        """Start rows of no steps."""
        self.steps, self.scripts = KeyValueCache(len(scripts)), scripts
        self.encoded = [torch.zeros(0, width) for _ in scripts]

    def join(self, other: SpeakerMemory) -> None:
        """Add the rows of another memory after these."""
        if not self.scripts:
            self.steps = other.steps
        else:
            self.steps.join(other.steps)
        self.scripts, self.encoded = self.scripts + other.scripts, self.encoded + other.encoded

    def take(self, row: int) -> SpeakerMemory:
        """Return a memory of this row alone."""
        taken = SpeakerMemory()
        taken.steps = self.steps.take(row)
        taken.scripts, taken.encoded = [self.scripts[row].copy()], [self.encoded[row]]
        return taken

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row that is named twice is copied."""
        self.steps.keep_rows(rows)
        self.scripts = [
            self.scripts[row] if row not in rows[:i] else self.scripts[row].copy() for i, row in enumerate(rows)
        ]
        self.encoded = [self.encoded[row] for row in rows]

    def crop(self, length: int) -> None:
        """Forget the steps after the first `length` of each row, and the text that came with them."""
        self.steps.crop(length)
        for row, script in enumerate(self.scripts):
            script.crop(length)
            self.encoded[row] = self.encoded[row][:0]


class HeartSpeaker(SpeechDecoder):
    """Phonemes and past speech to what the audio heads read."""

    licence = "Apache-2.0"
    reads_states = False
    table_std = _TABLE_STD

    class Options(plugins.Options):
        """Options of the speech decoder ``heart``."""

        width: int = Field(320, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH, description="Width of the decoder.")
        num_layers: int = Field(4, ge=1, description="Layers of the decoder.")
        hidden_width: int = Field(1280, ge=1, description="Units of its MLPs.")
        unit_width: int = Field(192, ge=1, description="Width of phonemes.")
        pronouncer: Literal["english", "letters"] = Field("english", description="Phonemes of English, or letters.")
        held_words: int = Field(1, ge=1, description="Words that must follow before an English word is read.")

        @model_validator(mode="before")
        @classmethod
        def _leave_out_the_lead(cls, options: Any) -> Any:
            """Read talkers of the first version of the voice, which say the grid's text lead here, too."""
            return {k: v for k, v in options.items() if k != "text_lead"} if isinstance(options, dict) else options

    def __init__(self, options: HeartSpeaker.Options, tokenizer: TextTokenizer, text_lead: int) -> None:
        super().__init__()
        self.options, self._tokenizer, self._text_lead = options, tokenizer, text_lead
        self.encoder = UnitEncoder(NUM_UNITS, options.unit_width)
        self.view = LatentView(options.unit_width, options.width)
        self.blocks = nn.ModuleList(SpeechBlock(options.width, options.hidden_width) for _ in range(options.num_layers))
        self.norm = nn.LayerNorm(options.width)
        for block in self.blocks:  # small beside the residual path, which keeps young deep stacks stable
            for layer in (block.attention_out, block.narrow):
                nn.init.normal_(cast("nn.Linear", layer).weight, std=0.02 / options.num_layers**0.5)

    @classmethod
    def build(cls, options: HeartSpeaker.Options, context: BuildContext) -> HeartSpeaker:
        """See :meth:`anytalk.plugins.contracts.Part.build`.

        Raises:
            ConfigError: the grid lets the text end before the first sound.
        """
        if context.text_lead == "all":
            raise ConfigError("the speech decoder 'heart' speaks while text comes; text_lead is 'all'", _LEAD_HINT)
        return cls(options, context.need_backbone().tokenizer, context.text_lead).to(context.device)

    @property
    def width(self) -> int:
        """W."""
        return self.options.width

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return an empty memory."""
        return SpeakerMemory()

    def forward(
        self, audio: Tensor, text: Tensor, states: BackboneStates | None = None, cache: Cache | None = None
    ) -> Tensor:
        """See :meth:`anytalk.plugins.contracts.SpeechDecoder.forward`.

        Raises:
            PluginError: hibari-tts, which pronounces English, is not installed.
            ConfigError: it is to learn from rows that don't say how long each phoneme lasts.
        """
        if self.training and self.norm.weight.requires_grad:
            raise ConfigError(
                "the speech decoder 'heart' can't be trained by a stage: it learns from durations, and rows have none",
                "leave output_adapter out of the stage's parts, or train it by examples/heart/train_speaker.py",
            )
        memory = cast("SpeakerMemory", cache) if cache is not None else SpeakerMemory()
        rows, steps = audio.shape[:2]
        if not memory.scripts:
            memory.begin([self._script() for _ in range(rows)], self.options.unit_width)
        self._read(memory, text.tolist())
        first = [first_latent(length, self._text_lead) for length in memory.steps.rows.lengths]
        encoded, starts, durations = self._units_of(memory, first, audio.device)
        latents = torch.tensor(first, device=audio.device)[:, None] + _span(steps, audio.device)
        return self.decode(audio, self.view(encoded, starts, durations, latents), memory.steps)

    def teach(self, audio: Tensor, units: Tensor, durations: Tensor, waits: Tensor) -> tuple[Tensor, Tensor]:
        """Whole answers whose durations are known.

        Args:
            audio: (B,T,W) merged audio rows; those of the first step are not looked at.
            units: (B, n + 16) int64: CONTEXT times PADDING, the units, END, and PADDING.
            durations: (B,n) int64, latents of each unit, 0 from the end on.
            waits: (B,n) int64, latents before each unit in which nothing is said.

        Returns:
            (B,T,W) what the heads read, and (B,n,LONGEST + 1) logits of durations.
        """
        encoded, guessed = self.encoder(units)
        ends = (durations + waits).cumsum(1)
        inner = units[:, CONTEXT:-CONTEXT]
        starts = (ends - durations).masked_fill(inner == PADDING, _NO_START)
        lasting = durations.masked_fill(inner == END, NEVER)
        latents = _span(audio.shape[1], audio.device) + first_latent(0, self._text_lead)
        seen = self.view(encoded, starts, lasting, latents.expand(len(audio), -1).contiguous())
        return self.decode(audio, seen, KeyValueCache(len(audio))), guessed

    def decode(self, audio: Tensor, seen: Tensor, cache: KeyValueCache) -> Tensor:
        """(B,T,W) past audio and (B,T,W) of the text -> (B,T,W)."""
        steps, device = audio.shape[1], audio.device
        times = cache.rows.positions(steps, device)
        # The prompt's last column may hold marks of other tasks.
        x = audio.to(seen.dtype) * (times > 0)[..., None] + seen
        looked = near(cache, steps, device)
        for number, block in enumerate(self.blocks):
            x = block(x, times, looked, cache, str(number))
        cache.advance(steps)
        return cast("Tensor", self.norm(x))

    def _script(self) -> Script:
        reader = TextReader(self._tokenizer, _pronouncer(self.options.pronouncer, self.options.held_words).fresh())
        return Script(reader, BREAKS, END, PADDING, self._text_lead)

    def _read(self, memory: SpeakerMemory, ids: list[list[int]]) -> None:
        """Give the units that these tokens release their encodings and durations."""
        fresh: list[list[list[int]]] = []
        for script, tokens in zip(memory.scripts, ids, strict=True):
            script.read(tokens)
            fresh.append(script.unspoken())
        windows = [window for row in fresh for window in row]
        if not windows:
            return
        device = self.norm.weight.device
        encoded, guessed = self.encoder(torch.tensor(windows, device=device))
        lasting = guessed[:, 0].argmax(-1).tolist()
        first = 0
        for row, (script, found) in enumerate(zip(memory.scripts, fresh, strict=True)):
            stop = first + len(found)
            script.speak(lasting[first:stop])
            memory.encoded[row] = torch.cat([memory.encoded[row].to(device), encoded[first:stop, 0]])
            first = stop

    def _units_of(
        self, memory: SpeakerMemory, first: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encodings, starts and durations of each row's units from latent `first` on, padded to one length >= 1."""
        spoken = [max(0, bisect_right(s.starts, latent) - 1) for s, latent in zip(memory.scripts, first, strict=True)]
        rows = list(zip(memory.scripts, memory.encoded, spoken, strict=True))
        longest = max(1, *(len(script.starts) - done for script, _, done in rows))
        encoded = torch.stack([F.pad(one[done:], (0, 0, 0, longest - len(one) + done)) for _, one, done in rows])
        starts = [(script.starts[done:] + [_NO_START] * longest)[:longest] for script, _, done in rows]
        lasting = [(script.durations[done:] + [0] * longest)[:longest] for script, _, done in rows]
        return encoded.to(device), torch.tensor(starts, device=device), torch.tensor(lasting, device=device)


def _span(steps: int, device: torch.device) -> Tensor:
    """(1,L): the latents that this many steps are shown, counted from the first."""
    return torch.arange(WINDOW + LATENTS_PER_STEP * (steps - 1), device=device)[None]


@lru_cache(maxsize=4)
def _pronouncer(name: str, held_words: int) -> Pronouncer:
    return LetterPronouncer() if name == "letters" else EnglishPronouncer(held_words)
