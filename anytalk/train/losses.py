"""Combine a stage's losses, those of the core (text, audio, distill) and of a talker's parts, into one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.data.batches import Batch
from anytalk.errors import ConfigError, did_you_mean
from anytalk.model.parent import load_parent
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Backbone, ForwardPass, Loss, LossRow, Part, SpeechEncoder
from anytalk.train.config import StageConfig
from anytalk.train.forward import BatchPass, never_empty

_EARS = ("encoder", "input_adapter")


class TextLoss(Loss):
    """Computes the cross-entropy of the text row."""

    name = "text"

    def counts(self, row: LossRow) -> list[int]:
        return [int(row.loss_mask[-1].sum())]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        if not line.writes:
            return torch.zeros(1, device=line.device)
        logits, wanted, _ = line.text
        return F.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100)[None]


class AudioLoss(Loss):
    """Computes the cross-entropy of each audio stream.

    Args:
        weights: Weight of each stream; None: all equal.
    """

    name = "audio"

    def __init__(self, model: TalkModel, weights: Sequence[float] | None = None) -> None:
        weights = weights or [1.0] * model.layout.num_audio_streams
        self.shares = [weight / sum(weights) for weight in weights]
        self._model = model

    @property
    def streams(self) -> list[str]:
        """Return the numbered names of the streams, also if there is only one."""
        return [f"{self.name}{k}" for k in range(len(self.shares))]

    def counts(self, row: LossRow) -> list[int]:
        return [int(count) for count in row.loss_mask[:-1].sum(axis=1)]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        """Return the sum of each stream, (K,); the heads run only on columns in the loss."""
        if line.spoken is None:
            return torch.zeros(len(self.shares), device=line.device)
        spoken, text_row = line.spoken, self._model.layout.text_row
        # The state of a column predicts the next one, hence the shift by one.
        mask, targets = spoken.loss_mask[:, :text_row, 1:], spoken.tokens[:, :text_row, 1:]
        chosen = never_empty(mask.any(dim=1))  # (B,T)
        wanted = targets.transpose(0, 1)[:, chosen]  # (K,n)
        logits = self._model.route.logits(self._model, spoken.hidden[:, :-1][chosen], wanted).float()  # (K,n,C)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        return (losses * mask.transpose(0, 1)[:, chosen]).sum(dim=1)


class DistillLoss(Loss):
    """Computes the KL divergence between the parent's answer (typed question) and the talker's (spoken question).

    This is Ultravox's loss (its ``_compute_kl_loss``), times the squared temperature (arXiv 1503.02531), which keeps
    the gradients at the same scale for any temperature.

    Args:
        vocab_size: Number of text tokens that both models know.
    """

    name = "distill"

    def __init__(self, teacher: Backbone, vocab_size: int, temperature: float = 2.0) -> None:
        self._teacher, self._vocab_size, self._temperature = teacher, vocab_size, temperature

    def counts(self, row: LossRow) -> list[int]:
        """Return the text tokens of the row if it could have been typed, else 0."""
        return [int(row.loss_mask[-1].sum()) if row.has_twin else 0]

    def prepare(self, rows: Sequence[LossRow]) -> list[Tensor]:
        """Return the rows' typed twins: ids (B',T'), loss mask (B',T'), row numbers (B',); [] if there are none."""
        twins = [(number, *row.twin()) for number, row in enumerate(rows) if row.has_twin]
        if not twins:
            return []
        ids, masks = (
            nn.utils.rnn.pad_sequence([torch.from_numpy(twin[part]) for twin in twins], batch_first=True)
            for part in (1, 2)
        )
        return [ids, masks, torch.tensor([twin[0] for twin in twins])]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        if not prepared:
            # The teacher runs in every pass, because engines need the same modules in each.
            if line.uniform:
                self._ask(torch.zeros(1, 2, dtype=torch.int64, device=line.device))
            return torch.zeros(1, device=line.device)
        ids, wanted, twins = prepared
        logits, targets, rows = line.text
        # Special tokens have ids above the teacher's vocabulary, so it can't embed them.
        taught = self._ask(torch.where(ids < self._vocab_size, ids, 0), wanted[:, 1:])
        said = logits[(targets != -100) & torch.isin(rows, twins)][:, : self._vocab_size]
        target = F.log_softmax(taught.float()[:, : self._vocab_size] / self._temperature, dim=-1)
        found = F.log_softmax(said / self._temperature, dim=-1)
        return F.kl_div(found, target, reduction="sum", log_target=True)[None] * self._temperature**2

    @torch.no_grad()
    def _ask(self, ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the teacher's logits (n,V) at ids (B,T) where `wanted` (B,T-1) is True; None: everywhere."""
        states = self._teacher(self._teacher.embed_text(ids)).normed[:, :-1]
        return self._teacher.text_logits((states.flatten(0, 1) if wanted is None else states[wanted])[None])[0]


def needs_parent(stage: StageConfig) -> bool:
    """Return whether a stage needs a copy of the parent as its teacher; a frozen backbone is its own teacher."""
    return "backbone" in stage.parts and stage.losses.get(DistillLoss.name, 0) > 0


def choose_losses(
    talker: Talker, stage: StageConfig, model: TalkModel | None = None, teacher: Backbone | None = None
) -> dict[Loss, float]:
    """Return the losses that a stage names, with their weights, in the order in which a pass computes them.

    Args:
        model: The talker's model, or a view of it.
        teacher: Teacher of the distillation. None: the backbone, or its parent if the backbone trains.

    Raises:
        ConfigError: a loss that this talker doesn't have, or a name that two of its parts use.
    """
    model = model or talker.model
    ears: list[Loss] = []
    others: list[Loss] = []
    for name, part in talker.model.parts().items():
        if isinstance(part, Part):
            (ears if name in _EARS else others).extend(part.losses())
    weights = {name: weight for name, weight in stage.losses.items() if weight > 0}
    core: list[Loss] = [TextLoss()]
    if DistillLoss.name in weights:
        teacher = teacher or (load_parent(talker) if needs_parent(stage) else model.backbone)
        core.append(DistillLoss(teacher, model.layout.text_vocab_size, stage.distill_temperature))
    core.append(AudioLoss(model, stage.stream_weights))
    found = [*ears, *core, *others]
    names = sorted({DistillLoss.name, *(loss.name for loss in found)})
    for name in stage.losses:
        if name not in names:
            raise ConfigError(
                f"stage '{stage.name}': this talker has no loss '{name}'{did_you_mean(name, names)}",
                f"it has: {', '.join(names)}",
            )
    if len(names) < len(found):
        raise ConfigError("two parts of this talker have a loss of the same name", f"its losses: {', '.join(names)}")
    return {loss: weights[loss.name] for loss in found if loss.name in weights}


class LossModule(nn.Module):
    """Computes a pass's share of its step's loss from a batch; engines wrap this module.

    The loss of an optimizer step is ``sum over losses of weight x mean over the step's tokens`` (Eq. 1 of the paper). A
    forward pass sums over its own tokens and divides by the step's, so splitting a step into passes or sharing it among
    devices changes nothing.

    Args:
        model: A model with its freezing applied; without its encoder, unless that trains.
        listens: Whether any task of the stage hears speech.
        speaks: Whether any task of the stage speaks.
        uniform: Run the same modules in every pass, with zero weight if its rows don't need them. Engines that shard
            parameters or reduce gradients during the backward pass would deadlock otherwise.
        share_prefix: Compute prompt columns that all rows share only once.
    """

    def __init__(
        self,
        model: TalkModel,
        losses: Mapping[Loss, float],
        *,
        listens: bool = True,
        speaks: bool = True,
        uniform: bool = False,
        share_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.losses = model, dict(losses)
        self._uses = {"listens": listens, "speaks": speaks, "uniform": uniform}
        self._share_prefix = share_prefix and not uniform

    @property
    def names(self) -> list[str]:
        return [name for loss in self.losses for name in loss.streams]

    def factors(self, counts: Mapping[str, int]) -> Tensor:
        """Return the factor of each sum, (len(names),) float64; `counts` are tokens by name over all devices."""
        factors = [
            weight * share / max(1, counts.get(name, 0))
            for loss, weight in self.losses.items()
            for name, share in zip(loss.streams, loss.shares, strict=True)
        ]
        return torch.tensor(factors, dtype=torch.float64)

    def forward(self, batch: Batch, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a pass with the :meth:`factors` of its step.

        Returns:
            The scalar to differentiate, and the sums over this pass's tokens, (len(names),) float32, detached.
        """
        line = BatchPass(self.model, batch, **self._uses, share_prefix=self._share_prefix)
        sums = torch.cat([loss.sums(line, batch.prepared.get(loss.name, [])) for loss in self.losses])
        return (sums * factors.to(sums)).sum(), sums.detach()

    def means(self, sums: Tensor, factors: Tensor, counts: Mapping[str, int]) -> dict[str, float]:
        """Return each loss's mean per token, and the weighted ``loss``, from a step's sums (len(names),)."""
        values = zip(self.names, sums.tolist(), factors.tolist(), strict=True)
        means = {name: value / counts[name] for name, value, factor in values if counts.get(name) and factor}
        for loss in self.losses:
            streams = [means[name] for name in loss.streams if name in means]
            if streams:
                means[loss.name] = sum(streams) / len(streams)
        return {**means, "loss": float((sums * factors).sum())}


@torch.no_grad()
def hear(encoder: SpeechEncoder, batch: Batch) -> Batch:
    """Run a frozen encoder on a batch's sound, outside of the module, so that no engine shards or wraps the encoder."""
    if batch.waves is None or batch.lengths is None:
        return batch
    features, frames = encoder(batch.waves, batch.lengths)
    return replace(batch, waves=None, features=features, lengths=frames)
