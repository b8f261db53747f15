"""Cross-entropy per stream, over the tokens that the loss mask names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.data.batches import Batch
from anytalk.model.talk_model import GridBatch, TalkModel
from anytalk.train.prefix import run_backbone


@dataclass(frozen=True)
class LossWeights:
    """How streams are weighed: text, the mean of the audio streams, and each audio stream in it."""

    text: float = 1.0
    audio: float = 1.0
    streams: Sequence[float] | None = None


def grid_batch(model: TalkModel, batch: Batch) -> GridBatch:
    """Run the ears on a batch and lay the speech into its grids."""
    speech: list[list[tuple[int, Tensor]]] = [[] for _ in batch.speech_starts]
    if batch.lengths is not None:
        features, frames = (
            (batch.features, batch.lengths) if batch.waves is None else model.encode_speech(batch.waves, batch.lengths)
        )
        assert features is not None
        embeds, columns = model.adapt_speech(features, frames)
        rows = [i for i, start in enumerate(batch.speech_starts) if start >= 0]
        for row, embed, count in zip(rows, embeds, columns.tolist(), strict=True):
            speech[row].append((batch.speech_starts[row], embed[:count]))
    return GridBatch(batch.tokens, speech, batch.speaker, batch.answer_mask)


def batch_loss(model: TalkModel, batch: Batch, weights: LossWeights) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch: ``text * CE(text) + audio * weighted mean over streams of CE(stream)``.

    Each CE is a mean over the batch's masked tokens of that stream; token t is predicted from column t-1. The heads run
    on masked columns only.

    Returns:
        The scalar loss, and each stream's own mean (``text``, ``audio0`` ...), for those that were in the batch.
    """
    layout = model.layout
    embeds, audio_embeds = model.embed(grid_batch(model, batch))
    targets, mask = batch.tokens[:, :, 1:], batch.loss_mask[:, :, 1:]
    text_mask, audio_mask = mask[:, layout.text_row], mask[:, : layout.text_row]
    speaks = bool(audio_mask.any())
    states = run_backbone(model, batch.tokens, embeds)
    hidden = model.speak(states, audio_embeds, None, audio_rows=len(embeds) if speaks else 0)
    metrics: dict[str, float] = {}
    total = embeds.new_zeros(())
    if bool(text_mask.any()) and weights.text:
        logits = model.text_logits(hidden.states.normed[:, :-1][text_mask][None])[0]
        text_loss = F.cross_entropy(logits.float(), targets[:, layout.text_row][text_mask])
        metrics["text"] = float(text_loss.detach())
        total = total + weights.text * text_loss
    if speaks and weights.audio and hidden.audio is not None:
        audio_loss, per_stream = _audio_loss(model, hidden.audio[:, :-1], targets, audio_mask, weights.streams)
        metrics |= per_stream
        total = total + weights.audio * audio_loss
    metrics["loss"] = float(total.detach())
    return total, metrics


def _audio_loss(
    model: TalkModel, hidden: Tensor, targets: Tensor, mask: Tensor, stream_weights: Sequence[float] | None
) -> tuple[Tensor, dict[str, float]]:
    any_stream = mask.any(dim=1)  # (B,T)
    logits = model.audio_logits(hidden[any_stream][None])[0].float()  # (K,n,C+specials)
    wanted = targets[:, : model.layout.text_row].transpose(0, 1)[:, any_stream]  # (K,n)
    counts = mask.transpose(0, 1)[:, any_stream]  # (K,n)
    losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    per_stream = (losses * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)  # (K,)
    weights = torch.ones_like(per_stream) if stream_weights is None else per_stream.new_tensor(list(stream_weights))
    metrics = {f"audio{i}": float(value) for i, value in enumerate(per_stream.detach())}
    metrics["audio"] = float(per_stream.detach().mean())
    return (per_stream * weights).sum() / weights.sum(), metrics
