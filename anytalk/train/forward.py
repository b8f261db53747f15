"""Compute what the losses need from a batch, each value at most once and only on demand."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from anytalk.data.batches import Batch
from anytalk.model.talk_model import TalkModel
from anytalk.plugins.contracts import BackboneStates, GridBatch, Spoken
from anytalk.train.elastic import take_out
from anytalk.train.prefix import run_backbone

_DUMMY_FRAMES = 8
"""Encoder frames of the silent clip that is used if a device's rows hold no speech."""


class BatchPass:
    """Holds the values of a forward pass, on its device; see :class:`anytalk.plugins.contracts.ForwardPass`."""

    def __init__(
        self, model: TalkModel, batch: Batch, *, uniform: bool, listens: bool, speaks: bool, share_prefix: bool
    ) -> None:
        self.model, self.uniform, self.device = model, uniform, batch.tokens.device
        self._given, self._share_prefix = batch, share_prefix
        text_row = model.layout.text_row
        self._listens = listens
        # Engines that need the same modules in every pass ignore what this batch needs.
        self._speaks = speaks if uniform else bool(batch.loss_mask[:, :text_row].any())
        self.writes = uniform or bool(batch.loss_mask[:, text_row].any())

    @cached_property
    def features(self) -> tuple[Tensor, Tensor] | None:
        """Return encoder features and their lengths; those of a silent clip if an engine needs one."""
        model, batch = self.model, self._given
        if batch.lengths is None:
            return self._silence() if self.uniform and self._listens and model.input_adapter is not None else None
        if batch.features is not None:
            # Engines that keep parameters in half precision don't convert their inputs.
            adapter = next(model.input_adapter.parameters(), None) if model.input_adapter else None
            return batch.features.to(adapter.dtype) if adapter is not None else batch.features, batch.lengths
        assert batch.waves is not None
        return model.encode_speech(batch.waves, batch.lengths)

    def _silence(self) -> tuple[Tensor, Tensor]:
        # The device comes from the batch: reading a sharded parameter would gather it on this device alone.
        model, device = self.model, self._given.tokens.device
        if model.encoder is not None:  # an encoder inside the module is one that trains
            samples = model.encoder.sample_rate_hz // 5
            wave = torch.zeros(1, samples, device=device)
            return model.encode_speech(wave, torch.tensor([samples], device=device))
        features = torch.zeros(1, _DUMMY_FRAMES, model.encoder_width, device=device)
        return features, torch.tensor([_DUMMY_FRAMES], device=device)

    @cached_property
    def _laid(self) -> tuple[Batch, GridBatch, Tensor | None]:
        """Place the adapted speech in the grids; without speech, also return the (zero) trace of a silent clip."""
        model, batch = self.model, self._given
        speech: list[list[tuple[int, Tensor]]] = [[] for _ in batch.speech]
        silence = None
        if self.features is not None:
            adapted = model.adapt_speech(*self.features)
            if batch.lengths is None:
                # Multiplied by zero, it changes nothing, but the adapter takes part in the backward pass.
                silence = adapted.columns.sum() * 0.0
            else:
                embeds, counts = adapted.columns, adapted.lengths.tolist()
                assert model.input_adapter is not None
                if model.input_adapter.is_elastic:
                    planned = [model.input_adapter.output_length(frames) for frames in self.features[1].tolist()]
                    batch = take_out(batch, planned, counts)
                speech = [[(start, embeds[c][: counts[c]]) for start, c in spans] for spans in batch.speech]
        return batch, GridBatch(batch.tokens, speech, batch.speaker, batch.answer_mask), silence

    @property
    def tokens(self) -> Tensor:
        return self._laid[0].tokens

    @property
    def loss_mask(self) -> Tensor:
        return self._laid[0].loss_mask

    @cached_property
    def states(self) -> BackboneStates:
        batch, grid, silence = self._laid
        embeds = self.model.embed(grid, always=self.uniform).backbone
        if silence is not None:
            embeds = embeds + silence.to(embeds.dtype)
        return run_backbone(self.model, batch.tokens, embeds, share=self._share_prefix)

    @cached_property
    def text(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (n,V) of the tokens in the text loss, these tokens (n,), -100 for a dummy, and rows (n,)."""
        text_row = self.model.layout.text_row
        states = self.states
        # The state of a column predicts the next one, hence the shift by one.
        mask, targets = self.loss_mask[:, text_row, 1:], self.tokens[:, text_row, 1:]
        chosen = never_empty(mask)
        logits = self.model.text_logits(states.normed[:, :-1][chosen][None])[0].float()
        return logits, torch.where(mask[chosen], targets[chosen], -100), chosen.nonzero()[:, 0]

    @cached_property
    def spoken(self) -> Spoken | None:
        if not self._speaks:
            return None
        model, writes = self.model, not bool(self._given.reads.all())
        # If a loss has already computed the states, use them.
        needs = self.uniform or model.route.needs_backbone(writes) or "states" in self.__dict__
        states = self.states if needs else None
        batch = self._laid[0] if needs else self._given
        return model.route.train(model, batch, states, always=self.uniform)


def never_empty(mask: Tensor) -> Tensor:
    """Return the mask; if it is empty, with its first entry set, because all devices have to run the same modules."""
    if bool(mask.any()):
        return mask
    filled = mask.clone()
    filled.view(-1)[0] = True
    return filled
