"""Routes: one that a plugin brings, and decoders that go from one backbone to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import depth_plugin
import numpy as np
import pytest
import torch
from helpers import moved_parts, snapshot, stage, train, training_rows
from talkers import CODES, STREAMS, columns_from, generation_of, make_talker, spoken

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot
from anytalk.decode.runner import Runner, columns_of
from anytalk.errors import ConfigError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1A1
from anytalk.model.assemble import assemble
from anytalk.model.attach import attach
from anytalk.model.config import TalkerConfig
from anytalk.model.routes import route_of
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import OutputAdapter
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.testing import check_output_adapter
from anytalk_adapters.spelling import Spelling


@pytest.fixture
def registry() -> Registry:
    """The first-party parts, and a plugin of somebody else's."""
    plugins = build_plugins(third_party=False)
    plugins.register(depth_plugin, "depth", "somebody-elses", "1.0")
    return Registry(plugins)


def depth_talker(registry: Registry, folder: Path) -> Talker:
    parts = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter={name: depth}", "backbone.options={}"]
    return attach("tiny", folder, backbone="tiny", assignments=parts, registry=registry)


def test_a_plugin_brings_a_route_of_its_own(registry: Registry, tmp_path: Path) -> None:
    check_output_adapter("depth", registry)
    talker = depth_talker(registry, tmp_path / "t")
    assert isinstance(talker.model.route, depth_plugin.DepthRoute)
    generation = generation_of(talker)
    alone = spoken(list(columns_of(generation))).tolist()
    slot = Slot(generation_of(talker))
    batch = Runner(talker.model)
    batch.add(slot)
    while batch.slots:
        batch.step()
    assert np.stack(slot.generation.answer.columns, axis=1).tolist() == alone
    # Streams know what was chosen before them: with other embeddings of stream 0, the others choose otherwise.
    with torch.no_grad():
        talker.model.output_adapter.chosen[0] *= -9  # type: ignore[index,operator]
    assert spoken(list(columns_from(talker))).tolist() != alone


def test_a_route_of_a_plugin_learns(registry: Registry, tmp_path: Path) -> None:
    talker = depth_talker(registry, tmp_path / "t")
    new = ["input_adapter", "output_adapter", "audio_embeddings", "special_tokens"]
    learning = stage(train=new, tasks={"A1A2": 1.0}, steps=15, batch_size=3, learning_rate=1e-2)
    train(talker, learning, training_rows(tmp_path, 3))
    log = [json.loads(line) for line in (tmp_path / "t/history/short.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    again = load_talker(tmp_path / "t", registry=registry).model
    assert moved_parts(snapshot(talker.model), again) == set()


def test_an_adapter_has_to_say_its_route() -> None:
    class Silent(OutputAdapter):
        @classmethod
        def build(cls, options: Any, context: Any) -> Silent:
            return cls()

        @property
        def width(self) -> int:
            return 1

        def new_cache(self, batch_size: int, max_steps: int) -> None:
            return None

    with pytest.raises(ConfigError, match="has no route"):
        route_of(Silent())


# A decoder that reads no states goes from one backbone to another


def talker_of(width: int, num_blocks: int, **options: Any) -> Talker:
    """A speech decoder on a tiny backbone."""
    decoder = {"width": 64, "letter_width": 64, "num_layers": 2, "num_letter_layers": 1, **options}
    config = TalkerConfig.model_validate(
        {
            "backbone": {"name": "tiny", "options": {"width": width, "num_blocks": num_blocks}},
            "output_adapter": {"name": "talker", "options": decoder},
            "heads": {"name": "parallel"},
            "codec": {"name": "tiny", "options": {"num_streams": STREAMS, "codebook_size": CODES}},
            "grid": {"codec_streams": STREAMS, "codebook_size": CODES, "text_lead": 2},
            "speakers": ["anna", "bob"],
        }
    )
    return Talker(config, assemble(config, default_registry()), default_registry())


class OtherTokens:
    """The same pieces of text under other numbers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str) -> list[int]:
        return [self._turned(i) for i in self._tokenizer.encode(text)]

    def encode_rendered(self, text: str) -> list[int]:
        return [self._turned(i) for i in self._tokenizer.encode_rendered(text)]

    def decode(self, ids: Any) -> str:
        return str(self._tokenizer.decode([self._turned(int(i)) for i in ids]))

    def _turned(self, token: int) -> int:
        return 255 - token if 0 <= token < 256 else token


def read_aloud(talker: Talker, text: str) -> list[list[int]]:
    generation = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=24),
        [talker.prompts.prompt(T1A1, [Turn("user", text)])],
        [],
        audio_out=True,
        given_text=talker.model.backbone.tokenizer.encode(text),
        speaker=1,
    )
    return spoken(list(columns_of(generation))).tolist()  # type: ignore[no-any-return]


def move_mouth(source: Talker, target: Talker) -> None:
    """Put a decoder, its tables and its heads on another backbone."""
    for name in ("output_adapter", "heads", "audio_embeddings", "speaker"):
        getattr(target.model, name).load_state_dict(getattr(source.model, name).state_dict())
    target.model.special_tokens.audio.data.copy_(source.model.special_tokens.audio.data)


def test_a_decoder_speaks_the_same_on_another_backbone() -> None:
    """Of another width, and with other numbers for the same pieces of text: it reads letters."""
    source, target = talker_of(16, 1), talker_of(48, 2)
    with torch.no_grad():  # a fresh decoder hardly reads its letters, and fresh heads say the same whatever they read
        for block in source.model.output_adapter.speech_blocks:  # type: ignore[union-attr]
            block.letter_out.weight.normal_()
        source.model.heads.linear.weight.normal_(std=2.0)  # type: ignore[union-attr,operator]
    wanted = read_aloud(source, "it is seven.")
    assert len({tuple(stream) for stream in wanted}) == STREAMS
    assert read_aloud(target, "it is seven.") != wanted
    move_mouth(source, target)
    assert read_aloud(target, "it is seven.") == wanted
    tokenizer = OtherTokens(target.model.backbone.tokenizer)
    target.model.backbone.tokenizer = tokenizer  # type: ignore[assignment]
    target.model.output_adapter._spelling = Spelling(tokenizer, 24)  # type: ignore[assignment,arg-type]
    assert tokenizer.encode("it is seven.") != source.model.backbone.tokenizer.encode("it is seven.")
    assert read_aloud(target, "it is seven.") == wanted
    assert read_aloud(target, "it was nine.") != wanted


def test_tables_are_as_wide_as_their_adapter() -> None:
    model = talker_of(16, 1).model
    assert model.audio_embeddings.weight.shape[-1] == model.special_tokens.audio.shape[-1] == 64
    assert model.speaker is not None
    assert model.speaker.weight.shape[-1] == model.heads.linear.in_features == 64  # type: ignore[union-attr]
    assert model.special_tokens.text.shape[-1] == 16
    assert make_talker().model.audio_embeddings.weight.shape[-1] == 16
