"""Write TensorBoard files while a stage trains: losses, the grid of a row, and answers to held-out rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.data.examples import Example
from anytalk.data.preview import around_answer, draw_example
from anytalk.errors import AnytalkError
from anytalk.grid.draw import grid_image
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.train.samples import answer_row, evaluating, sound_of

_FLUSH_S = 10
_GRID_COLUMNS = 128


class Board:
    """Writes the files of one stage, on the main process. If the disk fails, training continues after one message.

    Args:
        folder: Folder of the stage; emptied if the stage starts from the beginning.
        step: Steps done before; entries that an earlier run wrote for later steps are hidden.
        notice: Called once with the reason if nothing more can be written.
    """

    def __init__(self, folder: Path, step: int, notice: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not step:
            shutil.rmtree(folder, ignore_errors=True)
        self._notice, self._failed = notice, False
        self._shown: set[str] = set()
        self._writer: Any = None
        self._try(lambda: self._open(SummaryWriter, folder, step))

    def _open(self, make: Callable[..., Any], folder: Path, step: int) -> None:
        self._writer = make(str(folder), purge_step=step + 1 if step else None, flush_secs=_FLUSH_S)

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a log line; ``held_out.A1T1.text`` becomes ``held_out/A1T1/text``, so that charts are grouped."""

        def write() -> None:
            for name, value in metrics.items():
                self._writer.add_scalar(name.replace(".", "/"), value, step)

        self._try(write)

    def text(self, name: str, text: str, step: int) -> None:
        self._try(lambda: self._writer.add_text(name, text, step))

    def grid(self, talker: Talker, example: Example, task: Task) -> None:
        """Draw the training grid of a row, with frames around the tokens in the loss."""
        drawn, first = around_answer(draw_example(talker, example, task), _GRID_COLUMNS)
        cut = f", from column {first}" if first else ""
        image = grid_image(drawn, f"{example.id}: {task.name}{cut}")
        self._try(lambda: self._writer.add_image(f"grid/{task.name}", image, 0, dataformats="HWC"))

    def answers(self, talker: Talker, rows: Sequence[tuple[Example, Task]], step: int) -> None:
        """Write the talker's answers to rows as text and sound; the first time, also the answers that the rows hold."""
        for example, task in rows:
            name = f"sample/{task.name}"
            try:
                with evaluating(talker.model):
                    sample = answer_row(talker, example, task)
            except AnytalkError as error:
                self.text(f"{name}/text", f"no answer: {error.message}", step)
                continue
            wanted = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
            asked = f"asked: {example.question_text}\n\n" if example.question_text else ""
            self.text(f"{name}/text", f"{asked}answered: {sample.text}", step)
            self._sound(f"{name}/sound", talker, sample.wave, step)
            if name not in self._shown:
                self._shown.add(name)
                self.text(f"{name}/wanted", wanted or "", step)
                if task.audio_out and example.codes is not None:
                    self._sound(f"{name}/wanted", talker, sound_of(talker, example.codes), step)

    def _sound(self, name: str, talker: Talker, wave: np.ndarray | None, step: int) -> None:
        if wave is not None and len(wave):
            rate_hz = talker.codec.sample_rate_hz
            self._try(lambda: self._writer.add_audio(name, wave[None], step, sample_rate=rate_hz))

    def flush(self) -> None:
        """Write buffered entries to disk; called before a checkpoint, so that no step of it is missing."""
        self._try(lambda: self._writer.flush())

    def close(self) -> None:
        self._try(lambda: self._writer.close())

    def _try(self, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed = True
            self._notice(f"nothing more is written for TensorBoard: {error}")
