"""Measures how far the logits of another arithmetic are from the exact ones, along the exact model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.ready import make_talker_ready
from anytalk.decode.runner import columns_of
from anytalk.decode.thinking import check_room, columns_left
from anytalk.evaluate.grids import kl_per_token
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import StreamLogits

G = TypeVar("G", bound=Generation)

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "How do I make a cup of tea?",
    "Write a short story about a dog that can fly.",
    "What is the difference between a crocodile and an alligator?",
    "Explain how a bicycle stays upright.",
    "Name three things that I should take on a hike.",
    "What is seventeen times six?",
    "Translate 'good morning' into German.",
    "Who wrote Romeo and Juliet, and when?",
    "Give me a recipe for pancakes.",
    "Why do leaves change their colour in autumn?",
)


@dataclass
class _Answers:
    """Holds a talker's greedy answers, and its logits along given answers."""

    ids: list[list[int]] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    text: list[Tensor] = field(default_factory=list)
    audio: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def measure_precision(
    make: Callable[[], Talker],
    arithmetics: Sequence[str],
    *,
    questions: Sequence[str] = QUESTIONS,
    max_tokens: int = 64,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Compare arithmetics with ``exact`` on typed questions.

    The exact talker answers greedily, with speech. Each arithmetic then computes logits along these answers, column by
    column, and answers by itself.

    Args:
        make: Loads the talker again.
        max_tokens: Columns of each answer.
        told: Called with a description of each measurement when it starts.

    Returns:
        For each arithmetic: ``positions``, how many were compared; ``text_kl``, the mean KL divergence in nats;
        ``text_agreement``, the share of positions with the same likeliest token; ``audio_kl`` and ``audio_agreement``,
        the same over all audio streams; ``same_start``, the mean share of an answer's tokens before the arithmetic's
        own greedy text differs from the exact one.
    """
    told("exact answers")
    exact = make()
    wanted = _answers(exact, questions, max_tokens)
    # Logits are compared along the exact answers, because two greedy answers soon differ in their text.
    grids = [(prompt, ids, columns) for prompt, ids, columns in _grids(exact, questions, wanted)]
    wanted.text, wanted.audio = _logits(exact, grids)
    # Only one talker is in memory at a time.
    del exact
    found: dict[str, dict[str, Any]] = {}
    for arithmetic in arithmetics:
        told(arithmetic)
        talker = make_talker_ready(make(), arithmetic)
        text, audio = _logits(talker, grids)
        own = _answers(talker, questions, max_tokens)
        found[arithmetic] = {
            "positions": sum(len(t) for t in text),
            **_compare("text", wanted.text, text),
            **_compare("audio", wanted.audio, audio),
            "same_start": float(np.mean([_same_start(a, b) for a, b in zip(wanted.ids, own.ids, strict=True)])),
        }
    return found


def _prompt(talker: Talker, question: str) -> Prompt:
    return talker.prompts.prompt(TASKS["T1A2"], [Turn("user", question, speech_columns=0)])


def _answers(talker: Talker, questions: Sequence[str], max_tokens: int) -> _Answers:
    made = _Answers()
    for question in questions:
        prompt = _prompt(talker, question)
        check_room(talker, prompt)
        options = DecodeOptions(max_columns=columns_left(talker, prompt, max_tokens))
        generation = _generation(Generation, talker, prompt, options)
        for _ in columns_of(generation):
            # Columns without text aren't compared, so their speech isn't needed.
            if generation.answer.text_ended:
                break
        made.ids.append(list(generation.answer.text_ids))
        made.columns.append(np.stack(generation.answer.columns, axis=1))
    return made


def _generation(kind: type[G], talker: Talker, prompt: Prompt, options: DecodeOptions) -> G:
    """Return the generation of a spoken answer to a prompt, batch-parallel if the talker's route is."""
    model = talker.model
    rows = [prompt, talker.prompts.text_only_row(prompt)][: model.route.num_rows]
    pattern, speaker = talker.config.grid.delay_pattern(), talker.speaker_index(None)
    return kind(model, pattern, options, rows, [], audio_out=True, speaker=speaker)


def _grids(talker: Talker, questions: Sequence[str], wanted: _Answers) -> list[tuple[Prompt, np.ndarray, np.ndarray]]:
    """Return each answer's prompt, its text tokens (n,) and those of its audio columns (K,n) that have text."""
    end = talker.model.layout.end_of_text_id
    made = []
    for question, ids, columns in zip(questions, wanted.ids, wanted.columns, strict=True):
        text = np.array([*ids, end][: columns.shape[1]], dtype=np.int64)
        made.append((_prompt(talker, question), text, columns[:, : len(text)]))
    return made


class _Following(Generation):
    """Repeats a given answer, and records the logits that this talker would have chosen from."""

    def follow(self, text: np.ndarray, columns: np.ndarray) -> _Following:
        """Set the answer's text (n,) and audio columns (K,n)."""
        self._given_answer = text, columns
        self.text_seen: list[Tensor] = []
        self.audio_seen: list[Tensor] = []
        return self

    def choose(self, text_logits: Tensor | None, audio_logits: StreamLogits | None, index: int) -> Column | None:
        text, columns = self._given_answer
        codes = columns[:, index].tolist()
        if text_logits is not None:
            self.text_seen.append(text_logits.cpu())
        if audio_logits is not None:
            size = self.model.layout.codebook_size
            # Only codes are compared, not special tokens.
            self.audio_seen.append(torch.cat([audio_logits.of(k, codes[:k])[:, :size] for k in range(len(codes))]))
        return Column(index, int(text[index]), columns[:, index])

    def is_done(self, index: int) -> bool:
        """Return False: only the maximum number of columns ends the answer."""
        return False


def _logits(
    talker: Talker, grids: Sequence[tuple[Prompt, np.ndarray, np.ndarray]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return text logits (n,V) and audio logits (n*K,C) along each given answer.

    Prompt and columns are read as in decoding, so that rounding in the caches counts, too.
    """
    texts, audios = [], []
    for prompt, text, columns in grids:
        options = DecodeOptions(max_columns=len(text))
        generation = _generation(_Following, talker, prompt, options).follow(text, columns)
        for _ in columns_of(generation):
            pass
        texts.append(torch.cat(generation.text_seen).float())
        audios.append(torch.cat(generation.audio_seen).float())
    return texts, audios


def _compare(name: str, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> dict[str, float]:
    divergence = torch.cat([kl_per_token(a, b) for a, b in zip(wanted, found, strict=True)])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(wanted, found, strict=True)])
    return {f"{name}_kl": float(divergence.mean()), f"{name}_agreement": float(same.double().mean())}


def _same_start(wanted: Sequence[int], found: Sequence[int]) -> float:
    """Return the share of an answer before the other one differs; 1 if they are equal."""
    if list(wanted) == list(found):
        return 1.0
    same = 0
    while same < min(len(wanted), len(found)) and wanted[same] == found[same]:
        same += 1
    return same / max(len(wanted), len(found))
