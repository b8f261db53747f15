"""Show a few rows as training sees them, from a prepared folder or straight from their sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from anytalk.data.config import DataConfig, read_rows
from anytalk.data.encoding import reason_of, row_encoder
from anytalk.data.examples import Example, make_grid
from anytalk.data.prepare import PrepareOptions, choose_tasks, settings_of
from anytalk.data.prepare_parts import talker_senses
from anytalk.data.shard_feed import open_shards
from anytalk.grid.draw import GridPicture, picture
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BadRow, Row
from anytalk.plugins.registry import Registry


@dataclass(frozen=True)
class Preview:
    """Holds one row of a preview."""

    source: str  # name of the source
    # The row as training sees it; None if there is no talker or if the row is left out.
    example: Example | None = None
    row: Row | BadRow | None = None  # the row of the source; None for prepared rows
    reason: str | None = None  # why the row is left out; None if it is kept

    @property
    def id(self) -> str:
        found = self.example or self.row
        return "" if found is None else found.id


def prepared_previews(spec: str, num_rows: int, task: str | None = None) -> list[Preview]:
    """Return evenly spaced rows of each source in a prepared folder or address, whether finished or not.

    Raises:
        DataError: nothing is prepared there.
    """
    found = []
    for feed in open_shards(spec, with_features=False, allow_partial=True):
        indices = np.arange(len(feed)) if task is None else feed.indices(task)
        if len(indices):
            places = np.unique(np.linspace(0, len(indices) - 1, min(num_rows, len(indices))).round().astype(int))
            found += [Preview(feed.name, feed.example(int(indices[place]))) for place in places]
    return found


def source_previews(
    config: DataConfig, num_rows: int, registry: Registry, talker: Talker | None = None, task: str | None = None
) -> list[Preview]:
    """Return the first rows of each source; with a talker, they are voiced and encoded as `anytalk prepare` does it.

    Raises:
        AnytalkError: a source, a voice or a part that can't be used.
    """
    if talker is None:
        return [
            Preview(source.name, row=row, reason=row.reason if isinstance(row, BadRow) else None)
            for source in config.sources
            for row in islice(read_rows(source, registry, strict=False), num_rows)
        ]
    return [preview for found in _encoded(config, num_rows, registry, talker, task) for preview in found]


def _encoded(
    config: DataConfig, num_rows: int, registry: Registry, talker: Talker, task: str | None
) -> Iterator[list[Preview]]:
    senses = talker_senses(talker)
    settings = settings_of(config, senses, PrepareOptions(features=False))
    encoder = row_encoder(settings, senses, registry, talker.device)
    for source in config.sources:
        tasks = tuple(t for t in choose_tasks(source) if senses.encoder is not None or not t.speech_in)
        found: list[Preview] = []
        for number, row in enumerate(read_rows(source, registry, strict=False)):
            if len(found) == num_rows:
                break
            try:
                example = encoder.example(row, tasks, number, source.filters)
            except Exception as error:  # as in `anytalk prepare`, one row must not end the run
                found.append(Preview(source.name, row=row, reason=reason_of(error)[1]))
            else:
                if task is None or task in example.tasks:
                    found.append(Preview(source.name, example, row))
        yield found


def draw_example(talker: Talker, example: Example, task: Task) -> GridPicture:
    """Draw the training grid of an example."""
    grid = make_grid(talker, example, task)
    tokenizer = talker.model.backbone.tokenizer
    return picture(
        talker.model.layout,
        grid.tokens,
        lambda token: tokenizer.decode([token]),
        learnt=grid.loss_mask,
        num_prompt=grid.num_prompt,
        speech_spans=grid.speech_spans,
    )


def around_answer(drawn: GridPicture, num_columns: int) -> tuple[GridPicture, int]:
    """Cut out at most `num_columns` columns around the start of the answer; 0 keeps all.

    Returns:
        The smaller picture and its first column.
    """
    if num_columns <= 0 or drawn.num_columns <= num_columns:
        return drawn, 0
    # A third of the columns shows the end of the prompt.
    first = max(0, min(drawn.num_prompt - num_columns // 3, drawn.num_columns - num_columns))
    stop = first + num_columns
    cut = replace(
        drawn,
        labels=tuple(row[first:stop] for row in drawn.labels),
        kinds=tuple(row[first:stop] for row in drawn.kinds),
        learnt=drawn.learnt[:, first:stop],
        num_prompt=drawn.num_prompt - first,
    )
    return cut, first
