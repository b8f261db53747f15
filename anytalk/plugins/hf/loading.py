"""Loads models from the hub, a folder or a GGUF file; whatever goes wrong becomes one sentence."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as _hf_logging

from anytalk.errors import AnytalkError, WeightsError
from anytalk.plugins.disk_cache import digest_of, kept
from anytalk.plugins.gguf_header import read_header
from anytalk.plugins.hf import gguf_file
from anytalk.plugins.hf.gguf_convert import convert
from anytalk.plugins.hf.model_files import check_dtypes, check_files, check_quantisation, check_sizes, check_weights
from anytalk.plugins.licences import spdx
from anytalk.plugins.sources import ModelSource

# Its functions carry no type annotations, which mypy would reject.
hf_logging: Any = _hf_logging
_LOCAL_HINT = "give a local folder, a .gguf file or package:NAME/PATH instead; these need no network"
_GGUF_HINT = "download the .gguf file again, or use the model's safetensors folder"
# Classes with a language modelling head end like this; the last ending is that of models that also read images.
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class Loaded:
    """Holds a causal LM as transformers loads it."""

    lm: Any  # `PreTrainedModel` in eval mode on the CPU
    tokenizer: Any  # `PreTrainedTokenizerBase`
    licence: str  # SPDX name, or "unknown"
    left_over: tuple[str, ...] = ()  # tensors in its files that the model doesn't use


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars, log lines and warnings of transformers and the hub in the block."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def load_causal_lm(
    source: ModelSource, revision: str | None, dtype: torch.dtype, trust_remote_code: bool = False
) -> Loaded:
    """Load model and tokenizer without unpickling anything; a model's own code runs only with `trust_remote_code`.

    Raises:
        WeightsError: something is missing, damaged or of the wrong kind.
    """
    with quiet_transformers():
        if source.is_gguf:
            return _load_gguf(source, dtype)
        if source.is_hub:
            return _load_hub(source, revision, dtype, trust_remote_code)
        return _load_folder(source, dtype, trust_remote_code)


def _load_gguf(source: ModelSource, dtype: torch.dtype) -> Loaded:
    """Load a GGUF file, or its pieces, through a folder that it is converted to once."""
    licence = spdx(str(read_header(source.paths[0]).get("general.license", "unknown")))
    with foreign_errors(source, _GGUF_HINT):
        # What is read depends on transformers' version; the digit changes when what we write does.
        name = f"gguf-1-{transformers.__version__}-{digest_of(source.paths)[:32]}"
        # Conversion takes seconds and mapping its result almost nothing, so that is kept by the file's digest.
        folder = kept(name, source.spec, lambda place: _convert_gguf(source, place))
        if folder is None:
            with TemporaryDirectory() as place:
                return Loaded(*gguf_file.load(source.joined(Path(place) / "joined.gguf"), dtype), licence)
        return replace(_from_pretrained(ModelSource(source.spec, (folder,)), None, dtype, False), licence=licence)


def _convert_gguf(source: ModelSource, folder: Path) -> None:
    """Write a GGUF file's tokenizer, and its weights as float32 safetensors, which are mapped instead of read."""
    with foreign_errors(source, _GGUF_HINT):
        path = source.joined(folder.parent / "joined.gguf")
        if convert(path, folder):
            return
        lm, tokenizer = gguf_file.load(path, torch.float32)
        lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def foreign_errors(source: ModelSource, hint: str) -> Iterator[None]:
    """Turn whatever transformers raises on a damaged model into a WeightsError; it may raise anything."""
    try:
        yield
    except AnytalkError:
        raise
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0][:300]
        if isinstance(error, KeyError):
            reason = f"there is nothing called {reason}"
        raise WeightsError(f"'{source.spec}' can't be loaded: {reason}", hint) from None


def _load_folder(source: ModelSource, dtype: torch.dtype, trusts: bool) -> Loaded:
    if not source.path.is_dir():
        raise WeightsError(f"'{source.spec}' is a file, but not a .gguf", "give the model's folder or a .gguf file")
    check_files(source.path, source.spec)
    with foreign_errors(source, "copy or download the model's folder again"):
        loaded = _from_pretrained(source, None, dtype, trusts)
    return replace(loaded, licence=_licence_of_card(source.path / "README.md"))


def _load_hub(source: ModelSource, revision: str | None, dtype: torch.dtype, trusts: bool) -> Loaded:
    with foreign_errors(source, "delete it from the Hugging Face cache and try again"):
        try:
            loaded = _from_pretrained(source, revision, dtype, trusts)
        except OSError as error:
            raise _unreachable(source, revision, error) from None
    card = try_to_load_from_cache(source.spec, "README.md", revision=revision)
    return replace(loaded, licence=_licence_of_card(Path(card)) if isinstance(card, str) else "unknown")


def _from_pretrained(source: ModelSource, revision: str | None, dtype: torch.dtype, trusts: bool) -> Loaded:
    name = source.spec if source.is_hub else str(source.path)
    # If trust_remote_code isn't given, transformers asks on the terminal, where a spinner hides the question.
    given = {"revision": revision, "trust_remote_code": trusts}
    with _own_code_refused(source):
        config = AutoConfig.from_pretrained(name, **given)
        _check_kind(source, config)
        check_quantisation(config, source.spec)
        check_sizes(config, source.spec)
        if "flash" in str(config._attn_implementation):
            config._attn_implementation = "sdpa"  # the same sums; what it was trained with need not be installed here
        if not source.is_hub:
            check_weights(source.path, source.spec)
        tokenizer = AutoTokenizer.from_pretrained(name, **given)
    auto: Any = AutoModelForCausalLM
    how = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    lm, info = auto.from_pretrained(name, config=config, **how, **given)
    if info["mismatched_keys"]:  # transformers' own error doesn't say which
        key, stored, expected = min(info["mismatched_keys"])
        raise WeightsError(
            f"the weights of '{source.spec}' don't fit its config.json: '{key}' is {list(stored)}, and {list(expected)}"
            " is expected",
            "copy or download the model again; weights and config.json must come from the same model",
        )
    # transformers applies an adapter that it finds beside the weights if peft is installed.
    if getattr(lm, "_hf_peft_config_loaded", False):
        raise WeightsError(
            f"'{source.spec}' has a PEFT adapter that isn't merged into its weights",
            "merge it first (merge_and_unload), and give the merged model",
        )
    # transformers would fill missing tensors at random, and only warn.
    if info["missing_keys"]:
        missing, hint = sorted(info["missing_keys"]), "is it an encoder, or only a part of a model? give the whole"
        if missing == ["lm_head.weight"]:
            hint = "set tie_word_embeddings in config.json if the head shares the embedding; otherwise give the whole"
        raise WeightsError(
            f"the weights of '{source.spec}' lack {len(missing)} tensors that a causal language model needs,"
            f" first '{missing[0]}'",
            f"{hint} causal language model",
        )
    if not source.is_hub:
        floating = {key for key, values in lm.state_dict().items() if values.is_floating_point()}
        check_dtypes(source.path, source.spec, floating)
    return Loaded(lm.eval(), tokenizer, "unknown", tuple(sorted(info["unexpected_keys"])))


@contextmanager
def _own_code_refused(source: ModelSource) -> Iterator[None]:
    """Explain what to do if transformers refuses to run a model's own code."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise WeightsError(
            f"'{source.spec}' has its own Python code, which runs only with your permission",
            "read its .py files; if you trust them: --set backbone.options.trust_remote_code=true",
        ) from None


def _check_kind(source: ModelSource, config: Any) -> None:
    """Refuse a model that isn't a causal LM by its own account (BERT's class would load as one and see the future)."""
    found = config.architectures or []
    architectures = [found] if isinstance(found, str) else list(map(str, found))
    brings_class = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in AutoModelForCausalLM._model_mapping or brings_class
    if (
        not known
        or config.is_encoder_decoder
        or (architectures and not any(name.endswith(_CAUSAL_ENDINGS) for name in architectures))
    ):
        kind = ", ".join(architectures) or config.model_type
        raise WeightsError(
            f"'{source.spec}' is a {kind}, not a causal language model",
            "give a decoder-only language model, e.g. Qwen2, Llama, Mistral, Gemma or Phi",
        )


def _unreachable(source: ModelSource, revision: str | None, error: OSError) -> WeightsError:
    what = source.spec if revision is None else f"{source.spec}@{revision}"
    causes = (error, error.__cause__, error.__context__)
    # transformers wraps the hub's errors in an OSError. A gated repository's error is also a not-found error.
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return WeightsError(
            f"'{what}' is only for users who accepted its terms", "accept them on the hub, then: hf auth login"
        )
    if any(isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError) for cause in causes):
        return WeightsError(f"the hub has no model '{what}'", f"check its spelling, or {_LOCAL_HINT}")
    return WeightsError(
        f"'{what}' is neither a local path nor complete in the local cache, and the hub can't be reached", _LOCAL_HINT
    )


def _licence_of_card(card: Path) -> str:
    """Return ``license:`` of a model card's YAML front matter, or "unknown"."""
    try:
        # A card begins with "---", YAML, "---".
        parts = card.read_text(encoding="utf-8").split("---", 2)
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return "unknown"
    return spdx(str(front.get("license", "unknown"))) if isinstance(front, dict) else "unknown"


def write_licence(folder: Path, licence: str) -> None:
    """Save a known licence with weights, in the front matter of a model card."""
    if licence != "unknown":
        (folder / "README.md").write_text(f"---\nlicense: {json.dumps(licence.lower())}\n---\n", encoding="utf-8")
