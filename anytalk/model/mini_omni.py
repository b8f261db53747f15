"""Imports the published Mini-Omni (``model_config.yaml`` and ``lit_model.pth``) as a talker folder.

Its Qwen2 becomes a backbone that transformers can load by itself; its other rows and matrices become parts. Streams,
prompts and the decoding rule are those of the original, so the talker generates the same tokens.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from anytalk.errors import WeightsError
from anytalk.files import written_whole
from anytalk.model.assemble import assemble
from anytalk.model.attach import check_vacant
from anytalk.model.config import BaseInfo, TalkerConfig, parse_config
from anytalk.model.mini_omni_keys import (
    HEAD,
    POST_HEAD,
    POST_NORM,
    SPECIAL_SLOTS,
    VISION_KEYS,
    WTE,
    MiniOmniConfig,
    audio_rows,
    expected_shapes,
    owned,
    qwen2_layers,
)
from anytalk.model.own_files import writing
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker, save_talker
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.registry import default_registry
from anytalk.plugins.settings import read_yaml, validated

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "lit_model.pth"
LICENCE = "MIT"
"""Licence of the published weights (gpt-omni/mini-omni)."""

_NATIVE = "backbone-0001"
_DOWNLOAD = "download the whole folder of gpt-omni/mini-omni again"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def import_mini_omni(
    folder: Path | str,
    out: Path | str,
    *,
    tokenizer: Path | str | None = None,
    overwrite: bool = False,
) -> Talker:
    """Convert the published checkpoint to a talker folder.

    Mini-Omni2's checkpoint works too, because its speech is the same; its vision adapter is left out with a warning.

    Args:
        folder: Folder with ``model_config.yaml`` and ``lit_model.pth``. Reading the weights runs no pickled code.
        out: The talker folder to write.
        tokenizer: Folder with Qwen2's tokenizer files; by default `folder`, where they are published.
        overwrite: Whether to replace a talker that is already there.

    Returns:
        The talker, saved, with all of its parts trained. Its encoder isn't loaded: ``load_talker(out)`` loads it.

    Raises:
        TalkerError: `out` exists already or can't be written.
        WeightsError: A file is missing or damaged, or `model_config.yaml` doesn't describe its keys and shapes.
        ConfigError: `model_config.yaml` has unknown fields or describes another architecture.
    """
    folder, out = Path(folder), Path(out)
    registry = default_registry()
    check_vacant(out, overwrite)
    source = read_mini_omni_config(folder)
    tokenizer_files = _find_tokenizer(Path(tokenizer) if tokenizer is not None else folder)
    weights = read_mini_omni_weights(folder, source)
    with written_whole(out) as partial:
        _write_backbone(weights, source, partial / _NATIVE, tokenizer_files)
        config = talker_config(source, folder)
        model = assemble(config, registry, folder=partial, with_encoder=False)
        load_parts(model, weights, source)
        base = BaseInfo(model=str(folder), fingerprint=fingerprint(model.backbone), licence=LICENCE)
        talker = Talker(config.replace(base=base.model_dump()), model, registry)
        # The backbone is written already, in its own folder.
        save_talker(talker, partial, trained=set(model.parts()) - {"backbone"})
    talker.folder = out
    return talker


def read_mini_omni_config(folder: Path) -> MiniOmniConfig:
    """Read ``model_config.yaml``.

    Raises:
        WeightsError: The file doesn't exist or is no YAML mapping.
        ConfigError: Fields are unknown or missing, or the architecture isn't Mini-Omni's.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise WeightsError(f"'{folder}' holds no {CONFIG_NAME}", f"{_DOWNLOAD}, and give its path")
    data = read_yaml(path, WeightsError, _DOWNLOAD)
    if not isinstance(data, dict):
        raise WeightsError(f"'{path}' is empty or not a mapping", _DOWNLOAD)
    hint = "only Mini-Omni and Mini-Omni2 can be imported; attach speech to other models with `anytalk attach`"
    return validated(MiniOmniConfig, data, f"'{path}' describes no Mini-Omni", hint)


def read_mini_omni_weights(folder: Path, source: MiniOmniConfig) -> dict[str, Tensor]:
    """Read ``lit_model.pth`` memory-mapped and check its keys; tied embeddings get the same tensor for both names.

    Raises:
        WeightsError: The file is missing or damaged, or keys or shapes aren't those that the config describes.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise WeightsError(f"'{folder}' holds no {WEIGHTS_NAME}", f"{_DOWNLOAD}, and give its path")
    try:
        # weights_only refuses pickled code; mmap reads a tensor only when it is used.
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise WeightsError(f"'{path}' is truncated or not a checkpoint of tensors: {reason}", _DOWNLOAD) from None
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise WeightsError(f"'{path}' is not a plain dictionary of tensors", _DOWNLOAD)
    weights: dict[str, Tensor] = dict(loaded)
    # Mini-Omni2 has these keys besides Mini-Omni's.
    if weights.keys() >= VISION_KEYS:
        warnings.warn(f"the vision adapter in '{path}' is left out, because talkers have no vision", stacklevel=3)
        weights = {key: tensor for key, tensor in weights.items() if key not in VISION_KEYS}
    if source.tie_word_embeddings:
        # The original registers the embedding over the head, so if a file has both, the embedding is the one in use.
        table = weights.get(WTE, weights.get(HEAD))
        if table is not None:
            weights[WTE] = weights[HEAD] = table
    _check_keys(weights, expected_shapes(source), path)
    return weights


def _check_keys(weights: dict[str, Tensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    problems = []
    for what, keys in (
        ("missing", sorted(expected.keys() - weights.keys())),
        ("unexpected", sorted(weights.keys() - expected.keys())),
    ):
        if keys:
            problems.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    shared = sorted(expected.keys() & weights.keys())
    wrong = [key for key in shared if tuple(weights[key].shape) != expected[key]]
    if wrong:
        first = wrong[0]
        problems.append(
            f"{len(wrong)} of another shape ({first} is {tuple(weights[first].shape)}, expected {expected[first]})"
        )
    if problems:
        raise WeightsError(
            f"the tensors of '{path}' are not those that {CONFIG_NAME} describes: {'; '.join(problems)}",
            f"do the two files belong together? {_DOWNLOAD}",
        )


def _find_tokenizer(folder: Path) -> list[Path]:
    found = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    names = {path.name for path in found}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise WeightsError(
            f"'{folder}' holds no tokenizer (tokenizer.json, or vocab.json with merges.txt)",
            "give a folder with the tokenizer files of Qwen/Qwen2-0.5B: tokenizer=...",
        )
    return found


def talker_config(source: MiniOmniConfig, folder: Path) -> TalkerConfig:
    """Return the configuration of a talker that decodes as the original in `folder` does."""
    swiglu = {"name": "swiglu", "options": {"hidden_width": source.intermediate_size}}
    heads_of_its_own = {"name": "shared", "options": {"tied": source.tie_word_embeddings}}
    blocks = {"name": "blocks", "options": {"num_blocks": source.post_adapter_layers}}
    data = {
        "backbone": {"name": "qwen2", "options": {"model": str(folder)}},
        "backbone_folder": _NATIVE,
        "encoder": {"name": "whisper", "options": {"model": "small", "pad_to_30s": True}},
        "encoder_width": source.whisper_adapter_dim,
        "input_adapter": swiglu if source.asr_adapter == "llamamlp" else {"name": "mlp", "options": {"num_layers": 1}},
        "output_adapter": blocks if source.post_adapter else {"name": "none"},
        "heads": {"name": "parallel"} if source.post_adapter else heads_of_its_own,
        "codec": {"name": "snac"},
        "grid": {
            "pattern": "delay",
            "merge": "mean",
            "prompt": "raw",
            "end_of_text": "eot",
            "text_special_slots": SPECIAL_SLOTS,
            "audio_special_slots": SPECIAL_SLOTS,
            "codec_streams": source.num_streams,
            "codebook_size": source.codebook_size,
        },
        "decode_rule": "original",
    }
    return parse_config(data, "the imported Mini-Omni")


def _write_backbone(
    weights: dict[str, Tensor], source: MiniOmniConfig, folder: Path, tokenizer_files: list[Path]
) -> None:
    """Write the text model (text rows of embedding and head, all blocks) so that transformers can load it by itself."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        dtype="float32",
        hidden_size=source.n_embd,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.n_layer,
        num_attention_heads=source.n_head,
        num_key_value_heads=source.n_query_groups,
        vocab_size=source.base_vocab_size,
        max_position_embeddings=source.block_size,
        rms_norm_eps=source.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": source.rope_base},
        tie_word_embeddings=source.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    layers = qwen2_layers(weights, "transformer.h", source.n_layer, source)
    state = {f"model.{key}": tensor for key, tensor in layers.items()}
    state["model.norm.weight"] = owned(weights["transformer.ln_f.weight"])
    state["model.embed_tokens.weight"] = owned(weights[WTE][: source.base_vocab_size])
    if not source.tie_word_embeddings:
        state["lm_head.weight"] = owned(weights[HEAD][: source.base_vocab_size])
    with writing(folder.parent):
        folder.mkdir(parents=True)
        config.save_pretrained(folder)
        safetensors.torch.save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
        for path in tokenizer_files:
            shutil.copyfile(path, folder / path.name)
        (folder / "README.md").write_text(f"---\nlicense: {LICENCE.lower()}\n---\n", encoding="utf-8")


@torch.no_grad()
def load_parts(model: TalkModel, weights: dict[str, Tensor], source: MiniOmniConfig) -> None:
    """Load everything but the backbone into a model that was assembled from :func:`talker_config`.

    With a post adapter the audio rows of ``lm_head`` are skipped, because the original doesn't use them then.
    """
    rows, slots = audio_rows(weights[WTE], source), slice(source.base_vocab_size, source.text_vocab_size)
    model.audio_embeddings.load_state_dict({"weight": rows[:, : source.codebook_size]})
    model.special_tokens.load_state_dict(
        {
            "text": weights[WTE][slots],
            "text_head": weights[HEAD][slots],
            "audio": rows[:, source.codebook_size :],
        }
    )
    assert model.input_adapter is not None
    prefix, new_prefix = "whisper_adapter.", "" if source.asr_adapter == "llamamlp" else "layers.0."
    model.input_adapter.load_state_dict(
        {new_prefix + key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
    )
    if source.post_adapter:
        layers = qwen2_layers(weights, "transformer.post_adapter", source.post_adapter_layers, source)
        state = {f"blocks.decoder.{key}": tensor for key, tensor in layers.items()}
        model.output_adapter.load_state_dict({**state, "blocks.decoder.norm.weight": weights[POST_NORM]})
        model.heads.load_state_dict({"linear.weight": weights[POST_HEAD]})
    elif not source.tie_word_embeddings:
        model.heads.load_state_dict({"rows": audio_rows(weights[HEAD], source)})
