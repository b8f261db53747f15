"""The losses of a stage: cross-entropy per stream over the tokens that the mask names, and distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.data.batches import Batch
from anytalk.errors import ConfigError
from anytalk.model.talk_model import TalkModel
from anytalk.plugins.contracts import Backbone, GridBatch, SpeechDecoder, SpeechEncoder, Spoken
from anytalk.train.elastic import take_out
from anytalk.train.prefix import run_backbone
from anytalk.train.soft_codes import SoftCodes

TEXT, DISTILL, ALIGN, PACE = "text", "distill", "align", "pace"
NOT_AUDIO = (TEXT, DISTILL, ALIGN, PACE)

_DUMMY_FRAMES = 8
"""Encoder frames of the silent clip that stands in where a device's rows hold no speech."""


@dataclass(frozen=True)
class LossSettings:
    """How losses are weighed.

    Attributes:
        weights: Weight of each named loss: ``text``, ``audio``, ``distill``, ``align``, ``pace``; absent: 0.
        streams: Weight of each audio stream in ``audio``; None: all equal.
        temperature: Of the distillation.
        soft_codes: What audio targets are shared among; None: nothing.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {TEXT: 1.0, "audio": 1.0})
    streams: Sequence[float] | None = None
    temperature: float = 2.0
    soft_codes: SoftCodes | None = None


class LossModule(nn.Module):
    """A talking model as a function from a batch to its share of a step's loss: what engines wrap.

    The loss of an optimizer step is ``sum over losses of weight x mean over the step's tokens``. A forward pass adds up
    its own tokens and divides by the step's, so that cutting a step into passes or sharing it between devices changes
    nothing.

    Args:
        model: Parts with their freezing applied; without its encoder, unless that trains.
        settings: Weights.
        teacher: The frozen text model of ``distill``; None without one. It is no submodule: engines leave it alone.
        listens: Whether any task of the stage hears speech.
        speaks: Whether any task of the stage speaks.
        uniform: Run the same modules in every pass, whatever its rows need, with zero weight: engines that shard
            parameters or reduce gradients while they are made would wait for each other for ever else.
    """

    def __init__(
        self,
        model: TalkModel,
        settings: LossSettings,
        *,
        teacher: Backbone | None = None,
        listens: bool = True,
        speaks: bool = True,
        uniform: bool = False,
        share_prefix: bool = True,
    ) -> None:
        super().__init__()
        if settings.weights.get(PACE, 0.0) > 0 and not isinstance(model.output_adapter, SpeechDecoder):
            raise ConfigError(
                f"the output adapter {type(model.output_adapter).__name__} has no loss 'pace'",
                "leave it out, or attach with talker",
            )
        self.model = model
        self.settings = settings
        self._teacher = (teacher,)
        self._listens, self._speaks, self._uniform = listens, speaks, uniform
        self._share_prefix = share_prefix and not uniform

    @property
    def names(self) -> list[str]:
        """Names of the sums, in order: text, one per audio stream, distill, align, pace."""
        return [TEXT, *(f"audio{k}" for k in range(self.model.layout.num_audio_streams)), DISTILL, ALIGN, PACE]

    def factors(self, counts: Mapping[str, int]) -> Tensor:
        """(len(names),) what each sum is multiplied by for a step with so many tokens of each name.

        Args:
            counts: Tokens of the step in the loss, by name, over all devices.
        """
        weights, layout = self.settings.weights, self.model.layout
        streams = list(self.settings.streams or [1.0] * layout.num_audio_streams)
        by_name = {name: weights.get(name, 0.0) for name in NOT_AUDIO}
        for k, weight in enumerate(streams):
            by_name[f"audio{k}"] = weights.get("audio", 0.0) * weight / sum(streams)
        return torch.tensor([by_name[n] / max(1, counts.get(n, 0)) for n in self.names], dtype=torch.float64)

    def means(self, sums: Tensor, factors: Tensor, counts: Mapping[str, int]) -> dict[str, float]:
        """Means per token of each loss that was in a step, and the weighted whole as ``loss``.

        Args:
            sums: (len(names),) over the step's tokens.
            factors: From :meth:`factors`.
            counts: As there.
        """
        values = dict(zip(self.names, sums.tolist(), strict=True))
        weighed = dict(zip(self.names, factors.tolist(), strict=True))
        means = {n: v / counts[n] for n, v in values.items() if counts.get(n) and weighed[n]}
        audio = [value for name, value in means.items() if name not in NOT_AUDIO]
        if audio:
            means["audio"] = sum(audio) / len(audio)
        return {**means, "loss": float((sums * factors).sum())}

    def forward(self, batch: Batch, factors: Tensor) -> tuple[Tensor, Tensor]:
        """A forward pass.

        Args:
            batch: Rows of this pass, on the model's device.
            factors: From :meth:`factors`, for the whole step.

        Returns:
            The scalar to differentiate, and (len(names),) float32 sums over this pass's tokens, detached.
        """
        model, layout, weights = self.model, self.model.layout, self.settings.weights
        features = None if batch.lengths is None else self._features(batch)
        sums = dict.fromkeys(self.names, torch.zeros((), device=batch.tokens.device))
        if weights.get(ALIGN, 0.0) > 0 and features is not None:
            sums[ALIGN] = self._align(batch, features)
        has_text = bool(batch.loss_mask[:, layout.text_row].any())
        writes = self._uniform or (has_text and (weights.get(TEXT, 0.0) > 0 or self._has_twins(batch)))
        has_audio = bool(batch.loss_mask[:, : layout.text_row].any())
        speaks = self._speaks if self._uniform else has_audio and weights.get("audio", 0.0) > 0
        states = None
        if writes or (speaks and model.route.needs_backbone(not bool(batch.reads.all()))):
            batch, grid, silence = self._grid(batch, features)
            embeds = model.embed(grid, always=self._uniform).backbone
            if silence is not None:
                embeds = embeds + silence.to(embeds.dtype)
            states = run_backbone(model, batch.tokens, embeds, share=self._share_prefix)
        targets, mask = batch.tokens[:, :, 1:], batch.loss_mask[:, :, 1:]
        text_mask = mask[:, layout.text_row]
        if writes:
            assert states is not None
            logits = model.text_logits(states.normed[:, :-1][_never_empty(text_mask)][None])[0].float()
            kept = text_mask[_never_empty(text_mask)]
            text_targets = torch.where(kept, targets[:, layout.text_row][_never_empty(text_mask)], -100)
            sums[TEXT] = F.cross_entropy(logits, text_targets, reduction="sum", ignore_index=-100)
            if self._has_twins(batch):
                sums[DISTILL] = self._distill(batch, logits[kept], text_mask)
            elif self._uniform and self._teacher[0] is not None:
                self._ask_teacher(batch.tokens.new_zeros(1, 2))
        if speaks:
            spoken = model.route.train(model, batch, states, always=self._uniform)
            sums |= self._audio(spoken)
            if weights.get(PACE, 0.0) > 0:
                sums[PACE] = self._pace(spoken)
        vector = torch.stack([sums[name] for name in self.names])
        return (vector * factors.to(vector)).sum(), vector.detach()

    def _grid(self, batch: Batch, heard: tuple[Tensor, Tensor] | None) -> tuple[Batch, GridBatch, Tensor | None]:
        """Lay the adapted speech into the grids; with the (zero) trace of a silent clip where there is none."""
        model = self.model
        speech: list[list[tuple[int, Tensor]]] = [[] for _ in batch.speech]
        silence = None
        if heard is not None:
            adapted = model.adapt_speech(*heard)
            embeds, counts = adapted.columns, adapted.lengths.tolist()
            assert model.input_adapter is not None
            if model.input_adapter.is_elastic:
                planned = [model.input_adapter.output_length(frames) for frames in heard[1].tolist()]
                batch = take_out(batch, planned, counts)
            speech = [[(start, embeds[c][: counts[c]]) for start, c in spans] for spans in batch.speech]
        elif self._uniform and self._listens and model.input_adapter is not None:
            features, frames = self._silence(batch.tokens.device)
            silence = model.adapt_speech(features, frames).columns.sum() * 0.0
        return batch, GridBatch(batch.tokens, speech, batch.speaker, batch.answer_mask), silence

    def _align(self, batch: Batch, heard: tuple[Tensor, Tensor]) -> Tensor:
        """Sum over the clips whose words are known."""
        adapter, transcripts = self.model.input_adapter, batch.transcripts or []
        known = [place for place, ids in enumerate(transcripts) if len(ids)]
        if adapter is None or not known:
            return heard[0].new_zeros(())
        features, frames = heard
        losses: Tensor = adapter.align(features[known], frames[known], [transcripts[place] for place in known])
        return losses.sum()

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.lengths is not None
        if batch.features is not None:
            # Engines that keep parameters in half precision don't convert what they are given.
            adapter = next(self.model.input_adapter.parameters(), None) if self.model.input_adapter else None
            return batch.features.to(adapter.dtype) if adapter is not None else batch.features, batch.lengths
        assert batch.waves is not None
        return self.model.encode_speech(batch.waves, batch.lengths)

    def _silence(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # The model isn't asked where it is: looking at a parameter would gather it on this device alone.
        model = self.model
        if model.encoder is not None:  # it trains
            samples = model.encoder.sample_rate_hz // 5
            wave = torch.zeros(1, samples, device=device)
            return model.encode_speech(wave, torch.tensor([samples], device=device))
        features = torch.zeros(1, _DUMMY_FRAMES, model.encoder_width, device=device)
        return features, torch.tensor([_DUMMY_FRAMES], device=device)

    def _audio(self, spoken: Spoken) -> dict[str, Tensor]:
        """Sums per stream. The heads run on masked columns only."""
        text_row = self.model.layout.text_row
        hidden, targets = spoken.hidden[:, :-1], spoken.tokens[:, :text_row, 1:]
        mask = spoken.loss_mask[:, :text_row, 1:]
        any_stream = _never_empty(mask.any(dim=1))  # (B,T)
        wanted = targets.transpose(0, 1)[:, any_stream]  # (K,n)
        logits = self.model.route.logits(self.model, hidden[any_stream], wanted).float()  # (K,n,C+specials)
        kept = mask.transpose(0, 1)[:, any_stream]  # (K,n)
        soft = self.settings.soft_codes
        if soft is not None:
            losses = soft.losses(F.log_softmax(logits, dim=-1), wanted)
        else:
            losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        sums = (losses * kept).sum(dim=1)
        return {f"audio{k}": value for k, value in enumerate(sums)}

    def _pace(self, spoken: Spoken) -> Tensor:
        """Sum over the answers of how wrongly the decoder guesses their lengths."""
        decoder, told = self.model.output_adapter, spoken.told
        assert isinstance(decoder, SpeechDecoder)
        assert told is not None
        return (decoder.pace(told.audio, told.text, told.states) * told.answered.any(dim=1)).sum()

    def _has_twins(self, batch: Batch) -> bool:
        return self._teacher[0] is not None and batch.twin_tokens is not None

    def _distill(self, batch: Batch, logits: Tensor, text_mask: Tensor) -> Tensor:
        """KL from what the parent says to the typed question to what the talker says to the spoken one.

        Ultravox's loss (its ``_compute_kl_loss``), times the temperature squared (arXiv 1503.02531), so that its
        gradients stay as large as without one.
        """
        layout = self.model.layout
        assert batch.twin_tokens is not None
        assert batch.twin_mask is not None
        assert batch.twin_rows is not None
        ids = batch.twin_tokens[:, layout.text_row]
        taught = self._ask_teacher(torch.where(ids < layout.text_vocab_size, ids, 0), batch.twin_mask[:, 1:])
        rows = text_mask.nonzero()[:, 0]
        said = logits[torch.isin(rows, batch.twin_rows)][:, : layout.text_vocab_size]
        heat = self.settings.temperature
        target = F.log_softmax(taught.float()[:, : layout.text_vocab_size] / heat, dim=-1)
        found = F.log_softmax(said / heat, dim=-1)
        return F.kl_div(found, target, reduction="sum", log_target=True) * heat**2

    @torch.no_grad()
    def _ask_teacher(self, ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B,T) ids -> (n,V) logits behind the columns before the wanted ones, (B,T-1) bool; None: all."""
        teacher = self._teacher[0]
        assert teacher is not None
        states = teacher(teacher.embed_text(ids)).normed[:, :-1]
        return teacher.text_logits((states.flatten(0, 1) if wanted is None else states[wanted])[None])[0]


def _never_empty(mask: Tensor) -> Tensor:
    """The mask, with its first place set where it is empty: a module that runs on nothing is not run everywhere."""
    if bool(mask.any()):
        return mask
    filled = mask.clone()
    filled.view(-1)[0] = True
    return filled


@torch.no_grad()
def hear(encoder: SpeechEncoder, batch: Batch) -> Batch:
    """Run a frozen encoder on a batch's sound: outside of the module, so that no engine shards or wraps it."""
    if batch.waves is None or batch.lengths is None:
        return batch
    features, frames = encoder(batch.waves, batch.lengths)
    return replace(batch, waves=None, features=features, lengths=frames)
