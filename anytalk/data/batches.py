"""Turn the rows of an optimizer step into padded tensors, grouped into forward passes of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anytalk.data.examples import Clip, Example, make_grid, text_twin, why_too_long
from anytalk.data.feeds import Feed
from anytalk.data.mixing import Draw, Mixture, padding_share, split_rows
from anytalk.errors import AnytalkError, DataError
from anytalk.grid.prompts import TrainingGrid
from anytalk.grid.tasks import Task, find_task
from anytalk.grid.tokens import StreamLayout
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Loss

_CACHED_ROWS = 4096  # rows that stay laid out, for the next epoch


@dataclass
class Batch:
    """Holds the grids of one forward pass, right-padded."""

    tokens: Tensor  # (B,S,T) int64
    loss_mask: Tensor  # (B,S,T) bool
    speech: list[list[tuple[int, int]]]  # per row, (first column, clip number) of each spoken turn
    features: Tensor | None  # (clips,F,E) encoder features; None if there are waves or no clips
    waves: Tensor | None  # (clips,N) samples, for an encoder that runs while training
    lengths: Tensor | None  # (clips,) number of frames, or of samples if there are waves
    # (B,T) bool, True in the columns of a spoken answer; a written answer gets no voice, as in generation.
    answer_mask: Tensor
    speaker: Tensor  # (B,) index of each row's voice
    # What the losses need besides this, by name (`anytalk.plugins.contracts.Loss.prepare`).
    prepared: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def reads(self) -> Tensor:
        """Mark the rows that read a given text aloud, (B,) bool: their text is not in the loss."""
        return ~self.loss_mask[:, -1].any(dim=1)

    def to(self, device: torch.device | str) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: v.to(device, non_blocking=True) for n, v in values.items() if isinstance(v, Tensor)}
        moved["prepared"] = {n: [tensor.to(device) for tensor in own] for n, own in self.prepared.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Step:
    """Holds one device's share of an optimizer step, and counts over all devices."""

    passes: list[Batch]  # its forward passes
    counts: dict[str, int]  # tokens in the loss by name (`text`, `audio0` ...), over all devices
    tasks: list[int]  # tasks of all rows, over all devices
    rows: list[str]  # ids of all rows, over all devices
    positions: int  # rows times columns of all passes, over all devices, including padding
    padding: float  # share of these positions that is padding


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Holds what a step's batches depend on besides the data."""

    tasks: Mapping[str, float]  # tasks of the stage and their weights
    batch_size: int  # rows, over all devices
    max_positions: int  # limit of rows times columns in one forward pass
    max_padding: float  # limit of the share of padding in one forward pass
    learn_pads: bool = False  # also learn pad_a
    losses: Sequence[Loss] = ()  # they count their tokens and prepare what they need
    waves: bool = False  # use sound, not features: the encoder trains, or was trained after they were made
    seed: int = 0  # seed of the order of rows
    rank: int = 0  # this device
    world: int = 1  # devices


class LaidRow:
    """Holds a row laid out for its task; see :class:`anytalk.plugins.contracts.LossRow`."""

    def __init__(self, talker: Talker, outline: Example, task: Task, learn_pads: bool) -> None:
        self._talker, self._outline, self.task = talker, outline, task
        self.grid = make_grid(talker, outline, task, learn_pads)
        if why := why_too_long(talker, outline, task):
            raise DataError(f"{outline.id}: {why}", "prepare again without such rows: filters: {max_answer_s: ...}")
        self.id = outline.id

    @property
    def tokens(self) -> np.ndarray:
        return self.grid.tokens

    @property
    def loss_mask(self) -> np.ndarray:
        return self.grid.loss_mask

    @cached_property
    def heard(self) -> list[list[int]]:
        """Encode the text of each spoken turn; the list is empty if the text is unknown."""
        tokenizer = self._talker.model.backbone.tokenizer
        return [list(tokenizer.encode(turn.text)) if turn.text else [] for turn in self._outline.heard(self.task)]

    @property
    def has_twin(self) -> bool:
        """Tell whether the row's speech can be replaced by its transcript."""
        if not self.grid.speech_spans or self.task.answer != "answer":
            return False
        return self._outline.question_text is not None and all(t.text is not None for t in self._outline.history)

    def twin(self) -> tuple[np.ndarray, np.ndarray]:
        """Return text tokens and loss mask of the same conversation with typed questions."""
        grid, text_row = text_twin(self._talker, self._outline), self._talker.model.layout.text_row
        return grid.tokens[text_row], grid.loss_mask[text_row]


class Steps(Dataset[Step]):
    """Maps a step number to a :class:`Step`; a loader may read steps in any order, with any number of workers."""

    def __init__(self, talker: Talker, feeds: Sequence[Feed], settings: StepSettings):
        self._talker, self._feeds, self._settings = talker, feeds, settings
        self._mixture = Mixture(feeds, settings.tasks, settings.batch_size, settings.seed)
        self._tasks = [find_task(name) for name in settings.tasks]
        self._rows: dict[Draw, LaidRow] = {}

    def __getitem__(self, step: int) -> Step:
        """Return the work of one optimizer step, on the CPU."""
        settings = self._settings
        draws = self._mixture.draws(step)
        laid = [self._row(draw) for draw in draws]
        lengths = [row.tokens.shape[1] for row in laid]
        passes = split_rows(
            lengths,
            max_positions=settings.max_positions,
            max_padding=settings.max_padding,
            multiple_of=settings.world,
        )
        # `split_rows` orders the passes so that every device gets the same number of them, of similar size.
        own = passes[settings.rank :: settings.world]
        return Step(
            passes=[self._batch([draws[r] for r in rows], [laid[r] for r in rows]) for rows in own],
            counts=self._counts(laid),
            tasks=[draw.task for draw in draws],
            rows=[row.id for row in laid],
            positions=sum(len(rows) * max(lengths[r] for r in rows) for rows in passes),
            padding=padding_share(lengths, passes),
        )

    def first_row(self) -> tuple[Example, Task]:
        """Return the first row of the first step, with its features and sound if they are kept, and its task."""
        draw = self._mixture.draws(0)[0]
        return self._feeds[draw.feed].example(draw.index), self._tasks[draw.task]

    def _row(self, draw: Draw) -> LaidRow:
        if draw not in self._rows:
            if len(self._rows) >= _CACHED_ROWS:
                # Drop the oldest row.
                del self._rows[next(iter(self._rows))]
            outline = self._feeds[draw.feed].outline(draw.index)
            self._rows[draw] = LaidRow(self._talker, outline, self._tasks[draw.task], self._settings.learn_pads)
        return self._rows[draw]

    def _counts(self, rows: Sequence[LaidRow]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for loss in self._settings.losses:
            per_stream = zip(*(loss.counts(row) for row in rows), strict=True)
            counts |= {name: sum(found) for name, found in zip(loss.streams, per_stream, strict=True)}
        return counts

    def _batch(self, draws: Sequence[Draw], rows: Sequence[LaidRow]) -> Batch:
        talker = self._talker
        examples = [self._feeds[draw.feed].example(draw.index) for draw in draws]
        items = [(example, row.task, row.grid) for example, row in zip(examples, rows, strict=True)]
        batch = collate(talker.model.layout, items, talker.config.speakers, self._settings.waves)
        return replace(batch, prepared={loss.name: loss.prepare(rows) for loss in self._settings.losses})


class _Carried(Dataset[Step | AnytalkError]):
    """Returns errors as values, because a loader's worker would wrap them in a traceback of its own."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getitem__(self, step: int) -> Step | AnytalkError:
        try:
            return self._steps[step]
        except AnytalkError as error:
            return error


def lay_out_ahead(steps: Steps, first: int, end: int, workers: int) -> Iterator[Step]:
    """Yield the steps from `first` up to `end`; the number of workers changes nothing but the speed.

    Args:
        workers: Processes that lay out steps ahead of time; with 0 the caller's process does it on demand.

    Raises:
        AnytalkError: the error of a row, the same with and without workers.
    """
    loader = DataLoader(
        _Carried(steps),
        batch_size=None,
        sampler=range(first, end),
        num_workers=workers,
        prefetch_factor=2 if workers else None,  # DataLoader refuses a number without workers
    )
    for work in loader:
        if isinstance(work, AnytalkError):
            raise work
        yield work


def collate(
    layout: StreamLayout,
    items: Sequence[tuple[Example, Task, TrainingGrid]],
    speakers: Sequence[str],
    waves: bool = False,
) -> Batch:
    """Pad grids, features and waves to rectangles. Attention is causal, so no real token sees the padding on its right.

    Args:
        waves: Use sound even if there are features.

    Raises:
        DataError: sound is needed, but an example doesn't hold it.
    """
    tokens, loss_mask, answer_mask = _pad_grids(layout, [grid for _, _, grid in items])
    speech: list[list[tuple[int, int]]] = []
    clips: list[Clip] = []
    for example, task, grid in items:
        found = example.clips(task)
        spans = zip(grid.speech_spans, found, strict=True)
        speech.append([(start, len(clips) + i) for i, ((start, _), _) in enumerate(spans)])
        clips += found
    sounds = features = None
    lengths = torch.zeros(0, dtype=torch.int64)
    if waves or any(clip.features is None for clip in clips):
        sounds, lengths = _pad([_sound(clip, items[0][0].id) for clip in clips])
    else:
        features, lengths = _pad([clip.features for clip in clips if clip.features is not None])
    # A row without a known voice counts as one of the first voice.
    voices = [speakers.index(e.speaker) if e.speaker in speakers else 0 for e, _, _ in items]
    return Batch(
        tokens=torch.from_numpy(tokens),
        loss_mask=torch.from_numpy(loss_mask),
        speech=speech,
        features=features,
        waves=sounds,
        lengths=lengths if clips else None,
        answer_mask=torch.from_numpy(answer_mask),
        speaker=torch.tensor(voices),
    )


def _sound(clip: Clip, name: str) -> Tensor:
    if clip.wave is None:
        raise DataError(
            f"{name}: its sound is needed, because the encoder is or was trained, but the data holds only features",
            "prepare again with --keep-sound",
        )
    return clip.wave


def _pad_grids(layout: StreamLayout, grids: Sequence[TrainingGrid]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens (B,S,T), loss mask (B,S,T) and answer mask (B,T)."""
    steps = max(grid.tokens.shape[1] for grid in grids)
    tokens = np.full((len(grids), layout.num_streams, steps), layout.pad_a, dtype=np.int64)
    tokens[:, layout.text_row] = layout.pad_t
    loss_mask = np.zeros(tokens.shape, dtype=bool)
    answer_mask = np.zeros((len(grids), steps), dtype=bool)
    for i, grid in enumerate(grids):
        width = grid.tokens.shape[1]
        tokens[i, :, :width] = grid.tokens
        loss_mask[i, :, :width] = grid.loss_mask
        answer_mask[i, grid.num_prompt : width] = grid.loss_mask[: layout.text_row].any()
    return tokens, loss_mask, answer_mask


def _pad(items: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    lengths = torch.tensor([len(item) for item in items], dtype=torch.int64)
    if not items:
        return None, lengths
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True), lengths
