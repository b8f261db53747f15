"""Builds grids: the prompt of every task in both styles, and training grids with their loss masks.

The style ``raw`` is the layout of the original's code: columns input_t, text or pads, eot, then answer_t or asr. The
style ``chat`` is the backbone's own chat template: speech columns are inside the user's turn, and in the audio rows
input_a is in the column before them, eoa in the one after, and answer_a in the last column of the prompt. Without
speech, the text row of a chat prompt is *exactly* the base model's prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anytalk.errors import ConfigError
from anytalk.grid.chat import Part, encode_chat, parts_of
from anytalk.grid.delay import DelayPattern
from anytalk.grid.tasks import Task
from anytalk.grid.tokens import StreamLayout
from anytalk.plugins.markup import whole_characters

if TYPE_CHECKING:
    from anytalk.plugins.contracts import TextTokenizer

ASR_INSTRUCTION = "Write down exactly what I said."
TTS_INSTRUCTION = "Read this aloud:"


@dataclass(frozen=True)
class Turn:
    """Holds one turn of a conversation."""

    role: str  # `"user"`, `"assistant"`, or `"system"` (first only; it replaces the talker's own system message)
    text: str | None = None  # what was said, as text; None if only the speech is known
    speech_columns: int = 0  # how many columns its speech takes; 0 for a typed turn

    def is_heard(self, task: Task) -> bool:
        """Return whether its speech is in the prompt: always if it has no text, else only in tasks with speech."""
        return self.speech_columns > 0 and (task.speech_in or self.text is None)


@dataclass(frozen=True)
class Prompt:
    """Holds a grid that ends where the answer begins."""

    tokens: np.ndarray  # (S,T) int64
    speech_spans: tuple[tuple[int, int], ...] = ()  # (first column, number of columns) of each spoken turn, in order
    # The same as chat messages, for a model that is served elsewhere; empty in the raw style or with speech.
    messages: tuple[dict[str, str], ...] = ()

    @property
    def num_columns(self) -> int:
        return int(self.tokens.shape[1])


@dataclass(frozen=True)
class TrainingGrid:
    """Holds a prompt together with its answer."""

    tokens: np.ndarray  # (S,T) int64
    loss_mask: np.ndarray  # (S,T) bool: tokens that are learnt, each predicted from the column before it
    speech_spans: tuple[tuple[int, int], ...]  # as in `Prompt`
    num_prompt: int  # columns of the prompt


class PromptBuilder:
    """Builds prompts of one style for one layout.

    Args:
        style: ``"chat"`` or ``"raw"``.
        system: The system message of a chat prompt; None keeps the template's own default.
        template: The chat template's own arguments.

    Raises:
        ConfigError: the style is unknown, or it is chat and there is no chat template.
    """

    def __init__(
        self,
        layout: StreamLayout,
        tokenizer: TextTokenizer,
        style: str,
        system: str | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        if style not in ("chat", "raw"):
            raise ConfigError(f"unknown prompt style '{style}'", "use 'chat' or 'raw'")
        if style == "chat" and not tokenizer.has_chat_template:
            raise ConfigError("prompt style 'chat' needs a tokenizer with a chat template", "set grid.prompt: raw")
        self.layout = layout
        self.tokenizer = tokenizer
        self.style = style
        self.system = system
        self.template = template or {}

    def prompt(self, task: Task, turns: Sequence[Turn], opening: str = "") -> Prompt:
        """Build the prompt of a task; `turns` alternate and end with the user's, and the answer begins after `opening`.

        Raises:
            ConfigError: there are no turns, or the last one isn't the user's or lacks what the task needs.
        """
        self._check(task, turns)
        prompt = self._raw(task, turns) if self.style == "raw" else self._chat(task, turns, opening)
        if task.audio_out:
            prompt.tokens[: self.layout.text_row, -1] = self.layout.answer_a
        return prompt

    def text_only_row(self, prompt: Prompt) -> Prompt:
        """Return the second row of batch-parallel decoding: the same prompt for a text answer (paper 3.2).

        It differs only in the audio rows of the last column: pad_a instead of answer_a.
        """
        tokens = prompt.tokens.copy()
        tokens[: self.layout.text_row, -1] = self.layout.pad_a
        return replace(prompt, tokens=tokens)

    def training_grid(
        self,
        task: Task,
        turns: Sequence[Turn],
        answer_text: str,
        codes: np.ndarray | None = None,
        pattern: DelayPattern | None = None,
        learn_pads: bool = False,
    ) -> TrainingGrid:
        """Build a prompt followed by its answer, with the loss mask of the task.

        The loss includes the text answer and its end token (not in T1A1, where the text is given), and each stream's
        codes and eoa. Pads are forced in generation, so they are learnt only with `learn_pads` (the original doesn't
        enforce the pattern, and has to learn the pads before a stream's codes).

        Args:
            turns: As in :meth:`prompt`.
            answer_text: The text row of the answer.
            codes: (codec streams, F), needed if the task speaks.
            pattern: The delay pattern of the codes, needed if the task speaks.
            learn_pads: Whether to learn pad_a too.
        """
        prompt = self.prompt(task, turns)
        # The text is encoded as people's words: markup in it doesn't end the answer.
        text = [*self.tokenizer.encode(answer_text), self.layout.end_of_text_id]
        audio, audio_mask = self._answer_audio(task, codes, pattern, num_text=len(text) - 1)
        # Text and audio end at different columns; the shorter one is padded.
        steps = max(len(text), audio.shape[1])
        layout = self.layout
        answer = np.full((layout.num_streams, steps), layout.pad_a, dtype=np.int64)
        answer[layout.text_row] = layout.pad_t
        answer[layout.text_row, : len(text)] = text
        answer[: layout.text_row, : audio.shape[1]] = audio
        mask = np.zeros_like(answer, dtype=bool)
        # T1A1 is given its text, so there is nothing to learn in the text row.
        mask[layout.text_row, : len(text)] = task.text_in_loss
        if task.audio_out:
            mask[: layout.text_row, : audio.shape[1]] = audio_mask | learn_pads
        # Nothing in the prompt is learnt.
        prompt_mask = np.zeros_like(prompt.tokens, dtype=bool)
        return TrainingGrid(
            tokens=np.concatenate([prompt.tokens, answer], axis=1),
            loss_mask=np.concatenate([prompt_mask, mask], axis=1),
            speech_spans=prompt.speech_spans,
            num_prompt=prompt.num_columns,
        )

    def _answer_audio(
        self, task: Task, codes: np.ndarray | None, pattern: DelayPattern | None, num_text: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if not task.audio_out:
            empty = np.zeros((self.layout.num_audio_streams, 0), dtype=np.int64)
            return empty, empty.astype(bool)
        if codes is None or pattern is None:
            raise ConfigError(f"task {task.name} speaks, but the row has no codes", "give answer_audio")
        return pattern.apply(codes, self.layout, num_text)

    def _check(self, task: Task, turns: Sequence[Turn]) -> None:
        if not turns or turns[-1].role != "user":
            raise ConfigError("a prompt must end with the user's turn", "append Turn('user', ...)")
        last = turns[-1]
        if task.speech_in and not last.speech_columns:
            raise ConfigError(
                f"task {task.name} needs a spoken question", "give speech, or use a task that begins with T1"
            )
        if not task.speech_in and last.text is None:
            raise ConfigError(
                f"task {task.name} needs a typed question", "give text, or use a task that begins with A1"
            )

    # ---- raw: the columns of the original

    def _raw(self, task: Task, turns: Sequence[Turn]) -> Prompt:
        layout = self.layout
        columns: list[np.ndarray] = []
        spans: list[tuple[int, int]] = []
        for i, turn in enumerate(turns):
            start = sum(c.shape[1] for c in columns)
            if turn.role != "user":
                columns.append(self._text_columns([*self.tokenizer.encode(turn.text or ""), layout.end_of_text_id]))
                continue
            last = (
                layout.asr if i == len(turns) - 1 and task.speech_in and task.answer == "question" else layout.answer_t
            )
            if turn.is_heard(task):
                # The first column of the block is input_t.
                spans.append((start + 1, turn.speech_columns))
                block = self._text_columns([layout.input_t, *[layout.pad_t] * turn.speech_columns, layout.eot, last])
                block[: layout.text_row, 0] = layout.input_a
                # The audio rows end the speech where the text row has eot.
                block[: layout.text_row, -2] = layout.eoa
            else:
                block = self._text_columns([layout.input_t, *self.tokenizer.encode(turn.text or ""), layout.eot, last])
            columns.append(block)
        return Prompt(np.concatenate(columns, axis=1), tuple(spans))

    # ---- chat: the backbone's own template

    def _chat(self, task: Task, turns: Sequence[Turn], opening: str) -> Prompt:
        # A conversation's own system message replaces the talker's.
        has_own = turns[0].role == "system"
        said: list[tuple[str, list[Part]]] = []
        if self.system is not None and not has_own:
            said.append(("system", [self.system]))
        for i, turn in enumerate(turns):
            parts: list[Part] = [turn.speech_columns] if turn.is_heard(task) else parts_of(turn.text or "")
            if i == len(turns) - 1 and task.answer == "question":
                is_spoken = isinstance(parts[0], int)
                parts = [parts[0], f"\n{ASR_INSTRUCTION}"] if is_spoken else [f"{TTS_INSTRUCTION} {parts[0]}"]
            said.append((turn.role, parts))
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for piece in encode_chat(self.tokenizer, said, self.template):
            if isinstance(piece, int):
                spans.append((len(ids), piece))
                piece = [self.layout.pad_t] * piece
            ids += piece
        if opening:
            ids += self.tokenizer.encode_rendered(opening)
        # In the text row, speech columns are pads; the model puts the speech embeddings there.
        tokens = self._text_columns(ids)
        # Markers go into the audio rows of neighbouring columns, so that the text row stays the template's own.
        for start, length in spans:
            if start > 0:
                tokens[: self.layout.text_row, start - 1] = self.layout.input_a
            tokens[: self.layout.text_row, start + length] = self.layout.eoa
        messages = (
            ()
            if spans
            else tuple({"role": role, "content": whole_characters("".join(map(str, parts)))} for role, parts in said)
        )
        return Prompt(tokens, tuple(spans), messages)

    def _text_columns(self, ids: Sequence[int]) -> np.ndarray:
        """Return columns with the given text row and pads in all audio rows, (S, len(ids))."""
        columns = np.full((self.layout.num_streams, len(ids)), self.layout.pad_a, dtype=np.int64)
        columns[self.layout.text_row] = ids
        return columns
