"""Answer rows with a talker that is being trained, as a user would get the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from anytalk.data.examples import Clip, Example, make_grid, make_turns
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.runner import run_all
from anytalk.decode.session import begin_generation
from anytalk.errors import AudioError
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Heard

_MOST_COLUMNS = 512


@dataclass(frozen=True)
class Sample:
    """Holds an answer to a row."""

    text: str  # the written answer
    wave: np.ndarray | None  # (N,) float32 at the codec's rate; None if the task doesn't speak


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and afterwards restore the mode of each submodule (frozen ones stay in eval mode)."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@torch.no_grad()
def answer_row(talker: Talker, example: Example, task: Task) -> Sample:
    """Answer a row greedily, with at most about twice the columns of the row's own answer.

    Args:
        talker: A talker whose modules hold whole parameters; see :func:`evaluating`.
        example: A row with features or waves of its spoken turns.

    Raises:
        AnytalkError: a row that can't be answered.
    """
    grid = make_grid(talker, example, task)
    heard = [_hear(talker, clip) for clip in example.clips(task)]
    # The grid has columns planned for each clip; the adapter may have used fewer.
    columns = iter(heard)
    turns = [
        replace(turn, speech_columns=next(columns).num_columns) if turn.is_heard(task) else turn
        for turn in make_turns(talker, example, task)
    ]
    most = min(_MOST_COLUMNS, 2 * (grid.tokens.shape[1] - grid.num_prompt) + 8)  # room for short answers
    generation = begin_generation(
        talker,
        task,
        turns[-1],
        talker.prompts.prompt(task, turns),
        heard,
        DecodeOptions(rule=talker.config.decode_rule, max_columns=most),
        talker.speaker_index(example.speaker),
    )
    for _ in run_all(talker.model, [generation]):
        pass
    text = talker.model.backbone.tokenizer.decode(generation.answer.text_ids)
    return Sample(text, sound_of(talker, generation.answer.codes()) if task.audio_out else None)


def _hear(talker: Talker, clip: Clip) -> Heard:
    if clip.features is not None:
        features = clip.features[None].to(talker.device)
        found: Sequence[Heard] = talker.model.adapt_speech(features, torch.tensor([clip.num_frames])).clips()
    else:
        assert clip.wave is not None, "data that is trained on holds features or waves"
        found = talker.model.listen(clip.wave[None].to(talker.device), torch.tensor([len(clip.wave)]))
    if not found[0].num_columns:
        raise AudioError("nothing was heard in the question", "train the input adapter longer")
    return found[0]


@torch.no_grad()
def sound_of(talker: Talker, codes: np.ndarray) -> np.ndarray:
    """Decode codes (codec streams, frames) to samples (N,) float32 at the codec's rate; no frames give no samples."""
    if not codes.shape[1]:
        return np.zeros(0, np.float32)
    wave = talker.codec.decode(torch.from_numpy(codes)[None].to(talker.device))
    return np.asarray(wave[0].float().cpu().numpy(), np.float32)
