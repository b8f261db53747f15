"""Predict mean opinion scores through optional packages that contain their weights.

==============  ===================  ======================================================================
name            package, licence     what it is
==============  ===================  ======================================================================
``distillmos``  distillmos 0.9.1,    Distill-MOS (arXiv 2502.05356): overall quality, learnt from predictors on XLS-R;
                MIT                  of the two the one that is nearer to UTMOS
``dnsmos``      speechmos 0.0.1.1,   DNSMOS P.835 (arXiv 2110.01763): overall quality, made for noise suppression
                MIT
==============  ===================  ======================================================================

Scores of different predictors can't be compared with each other or with UTMOS.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anytalk.errors import AudioError, PluginError, UnknownNameError
from anytalk.grid.audio import SILENCE_PEAK, resample

RATE_HZ = 16_000


class MosPredictor(Protocol):
    """Predicts how people would rate a sound."""

    name: str
    package: str
    licence: str

    def score(self, wave: np.ndarray, sample_rate_hz: int) -> float:
        """Return the score of samples (N,) float32, from 1 (bad) to 5 (excellent); AudioError for silence."""


def _at_16_khz(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    if not len(wave) or float(np.abs(wave).max()) < SILENCE_PEAK:
        raise AudioError("silence has no opinion score", "leave silent answers out")
    return resample(wave, sample_rate_hz, RATE_HZ)


class DistillMos:
    """Runs Distill-MOS from the package distillmos."""

    name = "distillmos"
    package = "distillmos==0.9.1"
    licence = "MIT"

    def __init__(self) -> None:
        try:
            # The package prints a line about its weights on stdout, which is for results only.
            with _torchaudio_or_a_placeholder(), contextlib.redirect_stdout(io.StringIO()):
                self._model: Any = importlib.import_module("distillmos").ConvTransformerSQAModel().eval()
        except ImportError as error:
            raise _missing(self, "xls-r-sqa==0.1.0", error) from None

    def score(self, wave: np.ndarray, sample_rate_hz: int) -> float:
        import torch

        with torch.no_grad():
            return float(self._model(torch.from_numpy(_at_16_khz(wave, sample_rate_hz))[None]))


@contextlib.contextmanager
def _torchaudio_or_a_placeholder() -> Any:
    """Put an empty module in place of torchaudio if that isn't installed.

    distillmos imports it only for its own command line, and there isn't a torchaudio for every torch.
    """
    if find_spec("torchaudio") is not None:
        yield
        return
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]


class Dnsmos:
    """Runs DNSMOS P.835 on the weights of the package speechmos, as its own script does, but without librosa."""

    name = "dnsmos"
    package = "speechmos==0.0.1.1"
    licence = "MIT"

    _WINDOW = 144_160  # 9.01 s
    _HOP = RATE_HZ
    # speechmos/dnsmos.py: get_polyfit_val, overall quality.
    _OVERALL = (-0.06766283, 1.11546468, 0.04602535)

    def __init__(self) -> None:
        try:
            onnxruntime = importlib.import_module("onnxruntime")

            found = find_spec("speechmos")
            if found is None or not found.submodule_search_locations:
                raise ImportError("No module named 'speechmos'")
            path = Path(next(iter(found.submodule_search_locations))) / "dnsmos_models" / "sig_bak_ovr.onnx"
        except ImportError as error:
            raise _missing(self, "onnxruntime", error) from None
        self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def score(self, wave: np.ndarray, sample_rate_hz: int) -> float:
        """Return the mean score of windows of 9 s, one second apart; shorter sound is repeated."""
        wave = _at_16_khz(wave, sample_rate_hz)
        while len(wave) < self._WINDOW:
            wave = np.concatenate([wave, wave])
        starts = range(int(len(wave) // RATE_HZ - self._WINDOW / RATE_HZ) + 1)  # whole seconds, as its script does
        windows = [wave[i * self._HOP : i * self._HOP + self._WINDOW] for i in starts]
        raw = [float(self._session.run(None, {"input_1": w[None].astype(np.float32)})[0][0][2]) for w in windows]
        return float(np.mean(np.polyval(self._OVERALL, raw)))


PREDICTORS: dict[str, type[DistillMos] | type[Dnsmos]] = {"distillmos": DistillMos, "dnsmos": Dnsmos}
"""Maps names to predictors."""


def load_predictor(name: str) -> MosPredictor:
    """Return the predictor of this name.

    Raises:
        UnknownNameError: there is no such predictor.
        PluginError: its package isn't installed.
    """
    if name not in PREDICTORS:
        raise UnknownNameError(f"unknown predictor '{name}'", f"predictors: {', '.join(PREDICTORS)}")
    return PREDICTORS[name]()


def _missing(predictor: MosPredictor, needs: str, error: ImportError) -> PluginError:
    return PluginError(
        f"the predictor '{predictor.name}' is not installed: {error}",
        f"pip install --no-deps {predictor.package} {needs}",
    )
