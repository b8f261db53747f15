"""Measure training losses on held-out rows, one row at a time: ``loss``."""

from __future__ import annotations

from typing import Any

import torch

from anytalk.data.batches import LaidRow, collate
from anytalk.data.opening import TrainingData
from anytalk.errors import DataError
from anytalk.evaluate.config import LossMeasure
from anytalk.evaluate.lab import Lab
from anytalk.evaluate.results import Result
from anytalk.grid.tasks import find_task
from anytalk.plugins.contracts import Loss
from anytalk.train.losses import AudioLoss, LossModule, TextLoss, hear


@torch.no_grad()
def measure_loss(lab: Lab, measure: LossMeasure, result: Result) -> None:
    """Predict each token of a row from the tokens before it, as in training but without dropout.

    Items hold the sum and the number of tokens of each stream, so that two talkers can be compared row by row.

    Raises:
        DataError: no row serves the task.
    """
    talker, task = lab.talker, find_task(measure.task)
    losses: list[Loss] = [*([TextLoss()] if task.text_in_loss else []), *([AudioLoss(talker.model)] * task.audio_out)]
    module = LossModule(talker.model, dict.fromkeys(losses, 1.0), listens=task.speech_in, speaks=task.audio_out)
    factors = module.factors({})  # only the sums are used, not the weighted loss
    feeds = TrainingData(measure.data).feeds(talker, [task])
    places = [(feed, int(index)) for feed in feeds for index in feed.indices(task.name)][: measure.limit]
    if not places:
        raise DataError(f"no row of '{measure.data}' serves task {task.name}", "name data that does")
    for done, (feed, index) in enumerate(places, start=1):
        # One row per pass: losses must be known for each row.
        row = LaidRow(talker, feed.outline(index), task, learn_pads=False)
        batch = collate(talker.model.layout, [(feed.example(index), task, row.grid)], talker.config.speakers)
        batch = batch.to(talker.device)
        if talker.model.encoder is not None:
            batch = hear(talker.model.encoder, batch)
        sums = module(batch, factors)[1].tolist()
        counts = [count for loss in losses for count in loss.counts(row)]
        item: dict[str, Any] = {"id": row.id}
        for name, lost, tokens in zip(module.names, sums, counts, strict=True):
            item |= {f"{name}_nats": lost, f"{name}_tokens": tokens}
        if task.audio_out:
            streams = [name for loss in losses if isinstance(loss, AudioLoss) for name in loss.streams]
            item["audio_nats"] = sum(item[f"{name}_nats"] for name in streams)
            item["audio_tokens"] = sum(item[f"{name}_tokens"] for name in streams)
            # The first stream holds one code per frame (or all codes of a frame in turn), and an end.
            pattern = talker.config.grid.delay_pattern()
            item["frames"] = (item[f"{streams[0]}_tokens"] - 1) // pattern.steps_per_frame
        item["nats_per_token"] = sum(sums) / max(1, sum(counts))
        result.items.append(item)
        lab.progress(done, len(places))

    def ratio(above: str, below: str) -> Any:
        return lab.bootstrap.ratio([item[above] for item in result.items], [item[below] for item in result.items])

    if task.text_in_loss:
        result.keep(text=ratio("text_nats", "text_tokens"))
    if task.audio_out:
        result.keep(audio=ratio("audio_nats", "audio_tokens"), audio_per_frame=ratio("audio_nats", "frames"))
    result.pick_worst("nats_per_token", lab.suite.worst)
