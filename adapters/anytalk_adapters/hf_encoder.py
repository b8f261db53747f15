"""Implements the speech encoder ``hf``: audio encoders of transformers, such as HuBERT, WavLM, Wav2Vec2 or Whisper."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel

from anytalk import plugins
from anytalk.errors import AudioError, WeightsError
from anytalk.grid.audio import MIN_DURATION_S
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import SpeechEncoder, torch_dtype
from anytalk.plugins.sources import resolve


class HFEncoder(SpeechEncoder):
    """Returns the last hidden states of a transformers audio encoder, with its own feature extractor.

    Rows are encoded one by one: model families differ in how padding affects their convolutions and norms, and only
    this way a row never depends on its neighbours. Frame rate and width are measured on two probes.

    Some families always encode a fixed window (Whisper and Qwen2-Audio: 30 s). Their frames count if any of their
    samples belongs to the clip, and longer clips are refused. In other families all frames count, and clips shorter
    than 0.1 s are padded to that length, because otherwise no frame might fit.

    Args:
        model: A transformers audio encoder that returns ``last_hidden_state`` (1,F,E).
    """

    class Options(plugins.Options):
        weight_sources = ("model",)

        model: str = Field(description="Hub id or folder of a transformers audio model with its feature extractor.")

    def __init__(self, model: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.extractor = extractor
        training = model.training
        model.eval()
        # The same number of frames for 1 s and 2 s means a fixed window.
        with torch.no_grad():
            one, two = (self._encode(torch.zeros(seconds * self.sample_rate_hz)) for seconds in (1, 2))
        model.train(training)
        self._width = int(one.shape[1])
        self._window_frames = one.shape[0] if one.shape[0] == two.shape[0] else None
        if self._window_frames is None:
            self._frame_rate_hz = float(two.shape[0] - one.shape[0])
        else:
            self._frame_rate_hz = self._window_frames * self.sample_rate_hz / self.extractor.n_samples

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model and its feature extractor; of a model with a decoder only the encoder is kept.

        Raises:
            WeightsError: The model isn't found, or is no audio model.
        """
        source = resolve(options.model, context.folder)
        place = options.model if source.is_hub else str(source.path)
        try:
            extractor = AutoFeatureExtractor.from_pretrained(place)  # type: ignore[no-untyped-call]
            model = AutoModel.from_pretrained(place, dtype=torch_dtype(context.dtype))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise WeightsError(
                f"'{options.model}' can't be loaded as an audio model of transformers: {_line(error)}",
                "give a hub id or a folder with config.json, preprocessor_config.json and weights",
            ) from None
        # Random masking of features is for pre-training, and raises for clips shorter than its masks.
        model.config.apply_spec_augment = False
        try:
            return cls(_ears(model), extractor).to(context.device).eval()
        except (AttributeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"'{options.model}' ({type(model).__name__}) can't encode sound: {_line(error)}",
                "give an audio encoder such as HuBERT, WavLM, Wav2Vec2-BERT or Whisper",
            ) from None

    @property
    def sample_rate_hz(self) -> int:
        """Return the feature extractor's rate: 16000 in all families known so far."""
        return int(self.extractor.sampling_rate)

    @property
    def frame_rate_hz(self) -> float:
        """Return the features per second, as measured."""
        return self._frame_rate_hz

    @property
    def width(self) -> int:
        """Return E, as measured."""
        return self._width

    @property
    def max_duration_s(self) -> float | None:
        """Return the window of a model that has a fixed one; None for the others."""
        return None if self._window_frames is None else self.extractor.n_samples / self.sample_rate_hz

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,N) float32, right-padded, with (B,) lengths: (B,F,E) float32, zero in padding, and (B,) frames.

        Raises:
            AudioError: A row has no samples, or is longer than the model's window.
        """
        rows = [self._counted(wave[row, :num_samples]) for row, num_samples in enumerate(lengths.tolist())]
        counted = torch.tensor([row.shape[0] for row in rows], device=wave.device)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), counted

    def _counted(self, clip: Tensor) -> Tensor:
        """Encode a clip (n,) and return the frames (F,E) that count."""
        num_samples = clip.shape[0]
        if num_samples == 0:
            raise AudioError("a clip without samples can't be encoded", "record it again")
        if self._window_frames is None:
            shortest = int(MIN_DURATION_S * self.sample_rate_hz)
            return self._encode(nn.functional.pad(clip, (0, max(0, shortest - num_samples))))
        window = self.extractor.n_samples
        if num_samples > window:
            raise AudioError(
                f"a clip of {num_samples / self.sample_rate_hz:.2f} s can't be encoded; "
                f"this model hears up to {window / self.sample_rate_hz:.0f} s",
                "cut it into shorter turns",
            )
        # The window was padded to its full length; only frames with samples of the clip count.
        return self._encode(clip)[: -(-num_samples * self._window_frames // window)]

    def _encode(self, clip: Tensor) -> Tensor:
        """Encode a clip (n,) and return all frames (F,E), float32."""
        samples = clip.detach().cpu().numpy().astype(np.float32)
        inputs = self.extractor(samples, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        parameter = next(self.model.parameters())
        placed = {
            name: tensor.to(parameter.device, parameter.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        states: Tensor = self.model(**placed).last_hidden_state[0]
        return states.float()


def _ears(model: Any) -> Any:
    """Return the audio encoder inside a model: a recogniser's encoder, an audio language model's, or the model."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    return getattr(model, "audio_tower", model)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
