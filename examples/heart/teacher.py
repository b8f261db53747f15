"""The speech engine that the codec learns from: hibari-tts 0.2.1 (Apache-2.0), opened where its networks meet.

Beside the sound it gives what the sound was made of: the features, pitch and energy that its decoder reads, and how
long each phoneme lasts.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = "pip install hibari-tts==0.2.1 onnx onnxruntime"
LATENTS = "/Concat_43_output_0"
DURATIONS = "/Clip_output_0"
SAMPLES_PER_LATENT = 600


@dataclass(frozen=True)
class Spoken:
    """A text as it was said.

    Attributes:
        wave: (N,) float32, 24 kHz.
        latents: (N / 600, 132) float16: 128 features of the phoneme, then pitch and energy of the first and of the
            second half.
        phonemes: As hibari's G2P writes them, one string for each sentence.
        units: Ids of the phonemes in hibari's alphabet, an edge (0) around each sentence.
        durations: Latents (25 ms) of each unit.
    """

    wave: np.ndarray
    latents: np.ndarray
    phonemes: list[str]
    units: list[int]
    durations: list[int]


class Teacher:
    """hibari-tts on one thread."""

    def __init__(self) -> None:
        try:
            self._hibari: Any = importlib.import_module("hibari")
            self._dsp: Any = importlib.import_module("hibari.dsp")
            onnx: Any = importlib.import_module("onnx")
            runtime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise SystemExit(
                f"Error: the training speech is made by a package that is missing ({error}): {PACKAGES}"
            ) from None
        self._graph = onnx.load(str(Path(self._hibari.__file__).parent / "assets" / "hibari.onnx"))
        model = onnx.ModelProto()
        model.CopyFrom(self._graph)
        for name in (LATENTS, DURATIONS):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._engine = self._hibari.Hibari()
        self._to_array = onnx.numpy_helper.to_array

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Spoken | None:
        """Say `text`; None where nothing of it can be said. `seed` decides the noise of the breath."""
        phonemes = [line for line in self._engine.phonemize(text) if line.strip()]
        waves, latents, units, durations = [], [], [], []
        dice = np.random.default_rng(seed)
        for line in phonemes:
            ids = self._engine.ids(line)
            if len(ids) < 3:
                continue
            out = self._session.run(None, {"ids": np.array([ids], np.int64), "speed": np.array([speed], np.float32)})
            waves.append(self._dsp.synth(*(part[0] for part in out[:6]), dice))
            latents.append(out[6][0])
            units += ids
            durations += [int(length) for length in out[7].reshape(-1)]
        if not waves:
            return None
        halves = np.concatenate(latents, 1)
        columns = np.concatenate([halves[:128, ::2], halves[128:, ::2], halves[128:, 1::2]])
        return Spoken(np.concatenate(waves), columns.T.astype(np.float16), phonemes, units, durations)

    def decoder(self) -> dict[str, np.ndarray]:
        """Weights of hibari's decoder, int8 matrices multiplied out, under the names of ``VoiceDecoder``."""
        stored = {tensor.name: self._to_array(tensor) for tensor in self._graph.graph.initializer}

        def matrix(name: str) -> np.ndarray:
            whole = stored[f"{name}_quantized"].astype(np.float32) - stored[f"{name}_zero_point"].astype(np.float32)
            return np.ascontiguousarray((whole * stored[f"{name}_scale"]).T)

        weights = {
            name: value.astype(np.float32) for name, value in stored.items() if name.startswith(("m.dec", "m.head"))
        }
        for block in range(8):
            for part in ("pw1", "pw2"):
                weights[f"m.dec.{block}.{part}.weight"] = matrix(f"/dec.{block}/{part}/Transpose_output_0")
        weights["m.head.weight"] = matrix("/head/Transpose_output_0")
        return {_renamed(name): value for name, value in weights.items()}


def _renamed(name: str) -> str:
    """``m.dec.3.pw1.bias`` -> ``blocks.3.widen.bias``."""
    for old, new in (
        ("m.dec_in.", "into.conv."),
        ("m.dec_norm.", "norm."),
        ("m.dec.", "blocks."),
        ("m.head.", "head."),
        (".dw.", ".mix.conv."),
        (".pw1.", ".widen."),
        (".pw2.", ".narrow."),
        (".gamma", ".scale"),
    ):
        name = name.replace(old, new)
    return name
