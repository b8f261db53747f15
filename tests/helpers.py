"""Tiny talkers, training rows and stages that the tests of model, data and training share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_backbones import make_lm, make_tokenizer

from anytalk.data.examples import Example
from anytalk.data.opening import TrainingData
from anytalk.grid.audio import write_wave
from anytalk.grid.tasks import Task
from anytalk.model.attach import attach
from anytalk.model.config import StageRecord
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins import PartRef
from anytalk.plugins.contracts import Backbone, GridBatch, Row
from anytalk.plugins.registry import default_registry
from anytalk.train.config import StageConfig
from anytalk.train.loop import RunSettings, TrainingWatcher, train_stage
from anytalk_backbones.llama import LlamaBackbone

TINY_PARTS = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]
TINY = ["backbone.options={}", *TINY_PARTS]
NEW_PARTS = ["input_adapter", "output_adapter", "heads", "audio_embeddings", "special_tokens"]


def tiny_talker(folder: Path, *assignments: str) -> Talker:
    """A talker on the tiny backbone, attached in `folder`."""
    return attach("tiny", folder, backbone="tiny", assignments=[*TINY, *assignments])


def model_folder(folder: Path, family: str, chat: bool = True) -> Path:
    """A random model of a transformers family, in its own format."""
    LlamaBackbone(make_lm(family), make_tokenizer(chat), "MIT").save_native(folder)
    return folder


def training_rows(folder: Path, num_rows: int, num_frames: int = 4, question_s: float = 0.2) -> list[Row]:
    """Rows whose sounds are tones (questions, 16 kHz) and random codes of the tiny codec (answers, 8 kHz)."""
    registry = default_registry()
    codec = registry.build("codec", PartRef(name="tiny"))
    random, lines = np.random.default_rng(0), []
    for i in range(num_rows):
        time_s = np.arange(int(16_000 * question_s)) / 16_000
        question = 0.3 * np.sin(2 * np.pi * (300 + 700 * i) * time_s) + 0.01 * random.standard_normal(len(time_s))
        write_wave(folder / f"q{i}.wav", question.astype(np.float32), 16_000)
        codes = torch.from_numpy(random.integers(0, 16, (1, 3, num_frames)))
        write_wave(folder / f"a{i}.wav", codec.decode(codes)[0].numpy(), 8_000)
        lines.append(
            {
                "question_text": f"q{i}?",
                "question_audio": f"q{i}.wav",
                "answer_text": f"a{chr(98 + i)}",
                "answer_audio": f"a{i}.wav",
            }
        )
    write_lines(folder / "rows.jsonl", lines)
    sounds = ("question_audio", "answer_audio")
    return [
        Row(id=f"rows.jsonl:{i}", **{k: folder / v if k in sounds else v for k, v in line.items()})
        for i, line in enumerate(lines, start=1)
    ]


def write_lines(path: Path, lines: list[Any]) -> Path:
    """One JSON value per line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def stage(**changes: Any) -> StageConfig:
    """A short stage of the new parts on A1A2."""
    settings = {"name": "short", "train": NEW_PARTS, "tasks": {"A1A2": 1.0}, "steps": 3, "batch_size": 2}
    return StageConfig.model_validate({**settings, "learning_rate": 1e-3, **changes})


def snapshot(model: TalkModel) -> dict[str, dict[str, torch.Tensor]]:
    """A copy of each part's tensors."""
    return {
        name: {key: tensor.detach().clone() for key, tensor in part.state_dict().items()}
        for name, part in model.parts().items()
    }


def moved_parts(before: dict[str, dict[str, torch.Tensor]], model: TalkModel) -> set[str]:
    """Parts with a tensor that isn't bit-equal any more."""
    after = snapshot(model)
    return {name for name in before if any(not torch.equal(t, after[name][key]) for key, t in before[name].items())}


def text_grid(talker: Talker, ids: list[int]) -> torch.Tensor:
    """(1,S,T): text ids with pads in all audio rows."""
    layout = talker.model.layout
    tokens = torch.full((1, layout.num_streams, len(ids)), layout.pad_a)
    tokens[0, layout.text_row] = torch.tensor(ids)
    return tokens


@torch.no_grad()
def talker_text_logits(talker: Talker, ids: list[int]) -> torch.Tensor:
    """(1,T,V) through the talking model."""
    model = talker.model
    return model.text_logits(model.backbone(model.embed(GridBatch(text_grid(talker, ids))).backbone).normed)


@torch.no_grad()
def all_logits(talker: Talker, tokens: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Speech embeddings, text logits and audio logits of a grid with speech from column 1 on."""
    model = talker.model
    embeds = model.adapt_speech(features, torch.tensor([features.shape[1]])).columns
    speaker = None if model.speaker is None else torch.tensor([model.speaker.num_embeddings - 1])
    mask = torch.arange(tokens.shape[2])[None] > 5
    states = model.backbone(model.embed(GridBatch(tokens, [[(1, embeds[0])]], speaker, mask)).backbone)
    return embeds, model.text_logits(states.normed), model.audio_logits(model.output_adapter(states))


def probe(talker: Talker) -> tuple[torch.Tensor, ...]:
    """:func:`all_logits` on a fixed random grid that uses every table."""
    layout, generator = talker.model.layout, torch.Generator().manual_seed(5)
    tokens = torch.randint(0, layout.stream_vocab_size, (1, layout.num_streams, 9), generator=generator)
    tokens[0, layout.text_row] = torch.tensor([65, 66, layout.eot, layout.input_t, 67, 68, 69, layout.asr, 70])
    return all_logits(talker, tokens, torch.randn(1, 3, talker.config.encoder_width, generator=generator))


def same(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    """Whether two tuples of tensors are bit-equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@torch.no_grad()
def greedy_text(backbone: Backbone, ids: list[int], max_steps: int) -> list[int]:
    """The base model's own greedy answer, its end token left out."""
    cache = backbone.new_cache(1, len(ids) + max_steps)
    step, answer = torch.tensor([ids]), []
    for _ in range(max_steps):
        states = backbone(backbone.embed_text(step), cache)
        step = backbone.text_logits(states.normed[:, -1:]).argmax(-1)
        if int(step) == backbone.tokenizer.eos_id:
            break
        answer.append(int(step))
    return answer


def train(
    talker: Talker, settings: StageConfig, rows: Sequence[Row], watcher: TrainingWatcher | None = None, **how: Any
) -> StageRecord:
    """Train one stage on rows at hand; `how` are :class:`RunSettings`."""
    return train_stage(talker, settings, TrainingData(rows=rows), RunSettings(**how), watcher)


def make_examples(
    talker: Talker, rows: Sequence[Row], tasks: Sequence[Task], keep_waves: bool = False, progress: Any = None
) -> list[Example]:
    """All rows encoded for the tasks."""
    feed = TrainingData(rows=rows).feeds(talker, tasks, waves=keep_waves, progress=progress)[0]
    return [feed.example(i) for i in range(len(rows))]
