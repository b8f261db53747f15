"""The ``talker`` output adapter: a small speech decoder behind the backbone that spells what the backbone writes.

Audio tokens are fed back into the adapter only, so that the backbone runs once per text token and its text path is
never disturbed: the direction of Qwen2.5-Omni's talker (arXiv 2503.20215) and LLaMA-Omni 2 (arXiv 2505.02625). What is
new here: the adapter reads the *letters* of each text token beside the backbone's state of it, because a table of
tokens can't tell how a rare token is pronounced, and letters can; and it places each letter at the time at which it is
expected to be spoken (see ``talker_layers``), so that speech and text need not find each other first.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import END_OF_TEXT, BackboneStates, Cache, OutputAdapter, TextTokenizer

from .talker_layers import HEAD_WIDTH, NEVER, LetterBlock, SpeechBlock, TalkerMemory

START, END, PADDING = 256, 257, 258
"""Letters beside the 256 bytes of UTF-8: before the text, behind it, and in empty slots."""

_NUM_LETTERS = 259
_DIGITS = range(ord("0"), ord("9") + 1)


class TalkerAdapter(OutputAdapter):
    """Letters of the text and past speech to what the audio heads read."""

    licence = "MIT"
    feedback = "adapter"

    class Options(plugins.Options):
        """Options of ``talker``."""

        width: int = Field(384, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH, description="Width of the speech decoder.")
        num_layers: int = Field(4, ge=1, description="Layers of the speech decoder.")
        hidden_width: int | None = Field(None, ge=1, description="Units of its MLPs; null: 3.5 widths.")
        letter_width: int = Field(256, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH, description="Width of the letters.")
        num_letter_layers: int = Field(2, ge=0, description="Layers of the letter encoder.")
        max_letters: int = Field(24, ge=1, description="Bytes of one text token that are read.")
        steps_per_letter: float = Field(
            1.0, gt=0, description="Steps of speech that a letter is expected to take (at 12.5 steps a second about 1)."
        )
        steps_per_digit: float = Field(4.0, gt=0, description="The same for a digit, which is spoken as a word.")
        state_dropout: float = Field(
            0.1, ge=0, lt=1, description="Share of answers that are trained without the backbone's states."
        )

    def __init__(self, options: TalkerAdapter.Options, backbone_width: int, tokenizer: TextTokenizer) -> None:
        super().__init__()
        width, letter_width = options.width, options.letter_width
        self.options = options
        self.letters = nn.Embedding(_NUM_LETTERS, letter_width)
        self.place = nn.Embedding(options.max_letters, letter_width)
        self.state_norm = nn.LayerNorm(backbone_width, elementwise_affine=False)
        self.state_in = nn.Linear(backbone_width, letter_width)
        self.letter_blocks = nn.ModuleList(
            LetterBlock(letter_width, 4 * letter_width) for _ in range(options.num_letter_layers)
        )
        self.letter_norm = nn.LayerNorm(letter_width)
        self.audio_in = nn.Linear(backbone_width, width)
        hidden = options.hidden_width or int(3.5 * width)
        self.speech_blocks = nn.ModuleList(SpeechBlock(width, letter_width, hidden) for _ in range(options.num_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, backbone_width)
        self._tokenizer = tokenizer
        self._spelt: dict[int, list[int]] = {}
        self._anchor = tokenizer.encode("a")[-1:]
        for table in (self.letters, self.place):
            nn.init.normal_(table.weight, std=0.5)
        # Almost silent at first: a mouth that has learnt to read aloud speaks answers as well.
        nn.init.normal_(self.state_in.weight, std=1e-4)
        nn.init.zeros_(self.state_in.bias)
        # Blocks start as almost nothing beside the residual path, which keeps young deep stacks stable.
        depth = options.num_layers + options.num_letter_layers
        for name, parameter in self.named_parameters():
            if name.endswith(("_out.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=0.02 / depth**0.5)

    @classmethod
    def build(cls, options: TalkerAdapter.Options, context: BuildContext) -> TalkerAdapter:
        """See :meth:`anytalk.plugins.contracts.Part.build`."""
        backbone = context.need_backbone()
        return cls(options, backbone.width, backbone.tokenizer).to(context.device)

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """An empty memory."""
        return TalkerMemory()

    def forward(
        self,
        states: BackboneStates,
        audio: Tensor | None = None,
        cache: Cache | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`anytalk.plugins.contracts.OutputAdapter.forward`; without `text` every step is :data:`NO_TEXT`."""
        assert audio is not None, "an adapter that is fed back needs the audio rows"
        memory = cast("TalkerMemory", cache) if cache is not None else TalkerMemory()
        rows, steps = audio.shape[:2]
        device, dtype = audio.device, self.out.weight.dtype
        first = memory.length
        ids = [[-1] * steps] * rows if text is None else text.tolist()
        letters, places, sources, ends = self._spell(ids, memory)
        codes = torch.tensor(letters, device=device)
        source = torch.tensor(sources, device=device)  # (B,n) index of the step among these, NEVER for empty slots
        arrival = torch.where(source == NEVER, NEVER, source + first)
        # The start stands before everything.
        arrival = torch.where(codes == START, -1, arrival)
        end = torch.tensor(ends, device=device, dtype=torch.float32)
        taken = torch.where(codes == START, 0.0, self._durations(codes))
        letter_times = end - taken / 2
        memory.arrival = arrival if memory.arrival is None else torch.cat([memory.arrival, arrival], dim=1)
        memory.end = end if memory.end is None else torch.cat([memory.end, end], dim=1)

        x = self.letters(codes) + self.place(torch.tensor(places, device=device))
        x = x + self._states(states.normed, source, dtype)
        seen = memory.arrival[:, None, :] <= arrival[:, :, None]
        # An empty slot looks at itself and at everything: its output is never looked at, but must be a number.
        for number, block in enumerate(self.letter_blocks):
            x = block(x, letter_times, seen, memory, f"encoder.{number}")
        x = self.letter_norm(x)

        times = torch.arange(first, first + steps, device=device, dtype=torch.float32)[None].expand(rows, -1)
        visible = memory.arrival[:, None, :] <= torch.arange(first, first + steps, device=device)[None, :, None]
        h = self.audio_in(audio.to(dtype))
        for number, block in enumerate(self.speech_blocks):
            h = block(h, times, x, letter_times, visible, memory, str(number))
        memory.length = first + steps
        return cast("Tensor", self.out(self.norm(h)))

    def _states(self, normed: Tensor, source: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,T,D) states -> (B,n,W'), what the backbone knows of the token of each letter."""
        known = (normed != 0).any(dim=-1, keepdim=True)  # states of steps without text are zero
        if self.training and self.options.state_dropout:
            kept = torch.rand(len(normed), 1, 1, device=normed.device) >= self.options.state_dropout
            known = known & kept
        found = self.state_in(self.state_norm(normed.to(dtype))) * known
        index = source.clamp(max=normed.shape[1] - 1)
        found = found.gather(1, index[:, :, None].expand(-1, -1, found.shape[-1]))
        shown: Tensor = found * (source != NEVER)[:, :, None]
        return shown

    def _durations(self, codes: Tensor) -> Tensor:
        """(B,n) letters -> (B,n) steps that each is expected to take."""
        digit = (codes >= _DIGITS.start) & (codes < _DIGITS.stop)
        return torch.where(digit, self.options.steps_per_digit, self.options.steps_per_letter)

    def _spell(
        self, ids: list[list[int]], memory: TalkerMemory
    ) -> tuple[list[list[int]], list[list[int]], list[list[int]], list[list[float]]]:
        """Letters of all rows, padded to one length: letter, place in its token, step among these, time of its end."""
        if memory.arrival is None or memory.end is None:
            before = [0.0] * len(ids)
        else:
            before = torch.where(memory.arrival < NEVER, memory.end, 0.0).amax(dim=1).tolist()
        options = self.options
        rows: list[list[tuple[int, int, int, float]]] = []
        for row, time in zip(ids, before, strict=True):
            line: list[tuple[int, int, int, float]] = []
            if memory.arrival is None:
                line.append((START, 0, 0, 0.0))
            for step, token in enumerate(row):
                for place, letter in enumerate(self._letters_of(token)):
                    time += options.steps_per_digit if letter in _DIGITS else options.steps_per_letter
                    line.append((letter, place, step, time))
            rows.append(line)
        longest = max(1, max(len(line) for line in rows))
        empty = (PADDING, 0, NEVER, 0.0)
        rows = [line + [empty] * (longest - len(line)) for line in rows]
        columns = [[[slot[part] for slot in line] for line in rows] for part in range(4)]
        return columns[0], columns[1], columns[2], columns[3]  # type: ignore[return-value]

    def _letters_of(self, token: int) -> list[int]:
        """Bytes of a text token; looked up once."""
        if token == END_OF_TEXT:
            return [END]
        if token < 0:
            return []
        found = self._spelt.get(token)
        if found is None:
            # Behind another token: some tokenizers drop a space that nothing stands before.
            prefix = self._tokenizer.decode(self._anchor)
            piece = self._tokenizer.decode([*self._anchor, token])[len(prefix) :]
            found = list(piece.encode("utf-8"))[: self.options.max_letters]
            self._spelt[token] = found
        return found
