"""Reads and writes the talker folder, which attach and training make and everything else uses.

==========================  =======================================================================================
``talker.yaml``             configuration, base model and history; replaced last and atomically, so that it only ever
                            names complete files
``parts-NNNN.safetensors``  trained parts, and the untrained tables that they depend on
``backbone-NNNN/``          the backbone in its own format, only if a stage trained it
``README.md``               model card
``history/``                loss curves and logs of the stages
==========================  =======================================================================================
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

import anytalk
from anytalk.errors import PluginError, TalkerError, UnknownNameError
from anytalk.files import write_whole, written_whole
from anytalk.grid.prompts import PromptBuilder
from anytalk.model.assemble import assemble, build_codec
from anytalk.model.card import model_card
from anytalk.model.config import (
    CONFIG_FILE,
    PART_KINDS,
    StageRecord,
    TalkerConfig,
    WeightsFile,
    dump_config,
    read_config,
)
from anytalk.model.talk_model import TalkModel
from anytalk.plugins.contracts import Backbone, Codec
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.registry import Registry, default_registry

_OWN_BACKBONE = "backbone-"
_AGAIN = "copy the folder again, or train again"


@dataclass
class Talker:
    """Holds a talker in memory."""

    config: TalkerConfig  # the content of `talker.yaml`
    model: TalkModel
    registry: Registry  # the registry that its parts came from
    folder: Path | None = None  # its folder; None if it was never saved
    device: str = "cpu"  # torch device
    # The arithmetic that it computes in now (see `decode.ready`); `config.arithmetic` is the one to use for answers.
    arithmetic: str = "exact"
    _codec: Codec | None = field(default=None, repr=False)

    @property
    def has_codec(self) -> bool:
        return self._codec is not None

    @property
    def codec(self) -> Codec:
        """Return the codec; it is loaded on first use."""
        if self._codec is None:
            self._codec = build_codec(self.config, self.registry, self.folder, self.device)
        return self._codec

    @property
    def prompts(self) -> PromptBuilder:
        """Return the builder of this talker's prompts."""
        grid = self.config.grid
        return PromptBuilder(self.model.layout, self.model.backbone.tokenizer, grid.prompt, grid.system, grid.template)

    def speaker_index(self, name: str | None) -> int | None:
        """Return the row of a voice's embedding, by default the first; None if the talker has no embeddings."""
        if not self.config.speakers:
            return None
        if name is None:
            return 0
        if name not in self.config.speakers:
            raise TalkerError(f"unknown voice '{name}'", f"voices: {', '.join(self.config.speakers)}")
        return self.config.speakers.index(name)


def save_talker(
    talker: Talker, folder: Path, trained: set[str] | None = None, record: StageRecord | None = None
) -> TalkerConfig:
    """Write a talker folder; an old one stays valid until its ``talker.yaml`` is replaced at the end.

    Args:
        talker: The talker to save; its ``config`` and ``folder`` are updated.
        trained: Parts that changed since the last save. If none ever did, the folder holds no weights: its new parts
            are made again from the seed.
        record: The stage to add to the history.

    Raises:
        TalkerError: The folder can't be written or the disk is full; nothing half-written is left.
    """
    trained = set(trained or ())
    config = talker.config
    if config.weights is not None and (talker.folder is None or folder.absolute() != talker.folder.absolute()):
        # Weights of earlier saves are in another folder; the new folder has to be complete by itself.
        trained |= set(config.weights.parts) | ({"backbone"} if config.backbone_folder else set())
    made: list[Path] = []
    text = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if trained:
            config = _save_weights(talker, config, folder, trained, made)
        if record is not None:
            config = config.replace(history=[*config.history, record])
        # A talker of version 1 has no fingerprint yet.
        if config.codec_fingerprint is None and talker.has_codec:
            config = config.replace(codec_fingerprint=talker.codec.fingerprint)
        config = pinned(config, talker.registry).replace(library_version=anytalk.__version__)
        write_whole(folder / "README.md", model_card(config, folder.name))
        text = dump_config(config)
        write_whole(folder / CONFIG_FILE, text)
    except BaseException as error:
        # An interrupt may come after the new talker.yaml was written: then its files must stay.
        if not _holds(folder / CONFIG_FILE, text):
            for path in made:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, OSError | safetensors.SafetensorError):
            raise TalkerError(
                f"talker folder '{folder}' can't be written: {error}", "is it writable, and the disk not full?"
            ) from None
        raise
    talker.config, talker.folder = config, folder
    _remove_stale(folder, config)
    return config


def pinned(config: TalkerConfig, registry: Registry) -> TalkerConfig:
    """Return the configuration with all options filled in, so that a default that changes later changes no talker."""
    parts = {}
    for role, kind in PART_KINDS.items():
        ref = getattr(config, role)
        if ref is not None:
            try:
                parts[role] = {"name": ref.name, "options": registry.options(kind, ref).model_dump(mode="json")}
            except (PluginError, UnknownNameError):
                continue  # A part that isn't installed or wasn't loaded, such as the encoder if only text is asked.
    return config.replace(**parts)


def _holds(path: Path, text: str) -> bool:
    return bool(text) and path.is_file() and path.read_text(encoding="utf-8") == text


def _next_number(folder: Path) -> int:
    """Return a number above those of all weights in the folder: a save never overwrites the last one's files."""
    names = [path.name for pattern in ("parts-*", f"{_OWN_BACKBONE}*") for path in folder.glob(pattern)]
    numbers = [int(digits) for name in names if (digits := name.partition("-")[2].partition(".")[0]).isdigit()]
    return max(numbers, default=0) + 1


def _save_weights(
    talker: Talker, config: TalkerConfig, folder: Path, trained: set[str], made: list[Path]
) -> TalkerConfig:
    """Write the backbone, if trained, and all new parts; return the configuration that names them."""
    saved_before = set(config.weights.parts) if config.weights else set()
    parts = talker.model.parts()
    if "encoder" in saved_before and "encoder" not in parts:
        raise TalkerError(
            "this talker's trained speech encoder isn't loaded, and saving would lose it", "load it with its encoder"
        )
    number = _next_number(folder)
    if "backbone" in trained:
        native = folder / f"{_OWN_BACKBONE}{number:04d}"
        made.append(native)
        with written_whole(native) as partial:
            talker.model.backbone.save_native(partial)
        config = config.replace(backbone_folder=native.name)
    # From the first stage on all new parts are saved: a trained part may depend on an untrained table, and torch's
    # random numbers may change between versions. Encoder and backbone have files of their own.
    keep = [n for n in parts if n not in ("encoder", "backbone") or (n == "encoder" and n in trained | saved_before)]
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name in keep
        for key, tensor in parts[name].state_dict().items()
    }
    path = folder / f"parts-{number:04d}.safetensors"
    made.append(path)
    weights = write_parts(path, tensors, keep)
    return config.replace(weights=weights.model_dump())


def write_parts(path: Path, tensors: dict[str, Tensor], parts: Iterable[str]) -> WeightsFile:
    """Write a parts file as a whole; return its entry in ``talker.yaml``.

    Args:
        path: Path of the file.
        tensors: Tensors on the CPU and contiguous, named ``PART.TENSOR``.
        parts: Names of the parts in the file, including those without tensors.
    """
    with written_whole(path) as partial:
        safetensors.torch.save_file(tensors, str(partial))
        with partial.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightsFile(file=path.name, num_bytes=path.stat().st_size, sha256=sha256, parts=sorted(parts))


def _remove_stale(folder: Path, config: TalkerConfig) -> None:
    """Remove weights that the new ``talker.yaml``, which must be in place, no longer names."""
    # Only now, when the new talker.yaml is in place, does nothing name these files any more.
    for path in folder.glob("parts-*.safetensors"):
        if config.weights is None or path.name != config.weights.file:
            path.unlink()
    for path in folder.glob(f"{_OWN_BACKBONE}*"):
        if path.is_dir() and path.name != config.backbone_folder:
            shutil.rmtree(path)


def load_talker(
    folder: Path | str,
    *,
    registry: Registry | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    with_encoder: bool = True,
) -> Talker:
    """Load a talker folder. Nothing is unpickled.

    Raises:
        TalkerError: The folder or a file is missing or damaged, or the base model is another one.
        AnytalkError: A part can't be found or built.
    """
    folder = Path(folder)
    registry = registry or default_registry()
    config = read_config(folder)
    model = assemble(config, registry, folder=folder, device=device, dtype=dtype, with_encoder=with_encoder)
    # The fingerprint is that of float32 weights; a trained backbone differs from the base model.
    if config.backbone_folder is None and dtype == "float32":
        check_base(config, model.backbone)
    if config.weights is not None:
        _load_parts(model, folder, config.weights, with_encoder)
    return Talker(config, model, registry, folder, device)


def check_base(config: TalkerConfig, base: Backbone) -> None:
    """Compare a base model in float32 with the one that the talker was attached to, if that is recorded.

    Raises:
        TalkerError: The weights differ.
    """
    found = fingerprint(base)
    if config.base is not None and found != config.base.fingerprint:
        raise TalkerError(
            f"the base model '{config.base.model}' has other weights (fingerprint {found}) than the one that the "
            f"talker was attached to ({config.base.fingerprint})",
            "restore that model or revision, or attach again",
        )


def read_parts(folder: Path, weights: WeightsFile, described_in: str = CONFIG_FILE) -> dict[str, Tensor]:
    """Read the tensors of a parts file, named ``PART.TENSOR``, and check its size and digest.

    Args:
        folder: The folder of the file.
        weights: The file's entry in the configuration.
        described_in: Name of that configuration file, for messages.

    Raises:
        TalkerError: The file is missing, or is not the one that is described.
    """
    path = folder / weights.file
    if not path.is_file():
        raise TalkerError(f"'{path}' is missing; {described_in} names it", _AGAIN)
    if path.stat().st_size != weights.num_bytes:
        raise TalkerError(f"'{path}' has {path.stat().st_size} bytes instead of {weights.num_bytes}", _AGAIN)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != weights.sha256:
            raise TalkerError(f"'{path}' is damaged: its digest is not the one in {described_in}", _AGAIN)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(str(path))
    except safetensors.SafetensorError as error:
        raise TalkerError(f"'{path}' can't be read: {error}", _AGAIN) from None
    return tensors


def _load_parts(model: TalkModel, folder: Path, weights: WeightsFile, with_encoder: bool) -> None:
    path, tensors = folder / weights.file, read_parts(folder, weights)
    parts = model.parts()
    for name in weights.parts:
        if name == "encoder" and not with_encoder:
            continue
        if name not in parts:
            raise TalkerError(f"'{path}' holds a part '{name}' that talker.yaml doesn't configure", _AGAIN)
        load_part(parts[name], name, tensors, path)


def load_part(
    part: nn.Module, name: str, tensors: Mapping[str, Tensor], path: Path, described_in: str = CONFIG_FILE
) -> None:
    """Load a part's trained weights into it.

    Args:
        tensors: The tensors of all parts (:func:`read_parts`).
        described_in: Name of the configuration file, for messages.

    Raises:
        TalkerError: The tensors don't fit the part.
    """
    state = {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    wanted = {key: tuple(t.shape) for key, t in part.state_dict().items()}
    if {key: tuple(t.shape) for key, t in state.items()} != wanted:
        raise TalkerError(f"part '{name}' in '{path}' has other tensors than {described_in} describes", _AGAIN)
    part.load_state_dict(state)
