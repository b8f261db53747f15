"""The `talker` output adapter: audio is fed back into it alone, and the backbone's text is never disturbed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import moved_parts, snapshot, stage, tiny_talker, train, training_rows
from talkers import end_text_after, make_talker

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import ConfigError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1A1, T1A2, T1T2
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import END_OF_TEXT, NO_TEXT, GridBatch
from anytalk_adapters.talker_adapter import TalkerAdapter, spoken_steps

SMALL = {"width": 64, "letter_width": 64, "num_layers": 2, "num_letter_layers": 1}
TALKER = ["output_adapter.name=talker", f"output_adapter.options={SMALL}"]


def alone(**grid: Any) -> Talker:
    torch.manual_seed(1)
    talker = make_talker(adapter="talker", adapter_options={"reads_states": True}, **grid)
    with torch.no_grad():  # states count from the start here, so that a wrong one is seen
        talker.model.output_adapter.state_in.weight.normal_()
    talker.model.eval()
    return talker


def generate(talker: Talker, task: Any, text: str, **how: Any) -> Generation:
    given = talker.model.backbone.tokenizer.encode(text) if task is T1A1 else None
    generation = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=40, **how),
        [talker.prompts.prompt(task, [Turn("user", text)])],
        [],
        audio_out=True,
        given_text=given,
    )
    for _ in columns_of(generation):
        pass
    return generation


@pytest.mark.parametrize("task", [T1A1, T1A2])
@pytest.mark.parametrize("text_lead", [0, 2])
def test_what_is_trained_on_is_what_is_decoded(task: Any, text_lead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of an answer in one piece, as the loss sees them, equal those of the column loop with its cache."""
    talker = alone(text_lead=text_lead)
    if task is T1A2:
        end_text_after(talker, 5, monkeypatch)
    model, seen = talker.model, []
    plain = model.audio_logits
    monkeypatch.setattr(model, "audio_logits", lambda hidden: seen.append(plain(hidden)[0, :, -1]) or plain(hidden))
    generation = generate(talker, task, "hello world")
    monkeypatch.undo()
    answer = generation.answer
    layout, columns = model.layout, np.stack(answer.columns, axis=1)
    prompt = talker.prompts.prompt(task, [Turn("user", "hello world")]).tokens
    body = np.full((layout.num_streams, columns.shape[1]), layout.pad_t)
    body[: layout.text_row] = columns
    text = [*answer.text_ids, layout.end_of_text_id]
    body[layout.text_row, : len(text)] = text
    tokens = torch.from_numpy(np.concatenate([prompt, body], axis=1))[None]
    answers = torch.arange(tokens.shape[2])[None] >= prompt.shape[1]
    with torch.no_grad():
        whole = model.backbone(model.embed(GridBatch(tokens)).backbone) if task is T1A2 else None
        whole_answer = SimpleNamespace(
            tokens=tokens,
            loss_mask=torch.zeros_like(tokens, dtype=torch.bool),
            answer_mask=answers,
            speaker=torch.zeros(1, dtype=torch.int64),
            reads=torch.tensor([task is T1A1]),
        )
        hidden = model.route.train(model, whole_answer, whole).hidden
        logits = model.audio_logits(hidden)[0]
    assert len(seen) == columns.shape[1]
    torch.testing.assert_close(torch.stack(seen, dim=1), logits[:, :-1], atol=2e-5, rtol=1e-4)


def test_the_backbone_runs_once_per_text_token_and_not_at_all_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = alone()
    end_text_after(talker, 4, monkeypatch)
    backbone, steps = talker.model.backbone, []
    plain = backbone.forward
    monkeypatch.setattr(
        backbone, "forward", lambda embeds, cache=None: steps.append(embeds.shape) or plain(embeds, cache)
    )
    answer = generate(talker, T1A2, "hello").answer
    assert len(answer.text_ids) == 4
    assert len(answer.columns) > 6
    assert [shape[1] for shape in steps[1:]] == [1] * 4  # the prompt, then one step for each token
    steps.clear()
    generate(talker, T1A1, "hello")
    assert steps == []


def test_its_text_is_the_text_of_a_written_answer(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", *TALKER)
    said = [
        next(e for e in Session(talker).ask(text="hello", task=task) if isinstance(e, AnswerDone)).text
        for task in (T1T2, T1A2)
    ]
    assert said[0] == said[1]


def test_two_prompts_are_refused() -> None:
    talker = alone()
    prompt = talker.prompts.prompt(T1A2, [Turn("user", "a")])
    with pytest.raises(ConfigError, match="give one"):
        Generation(
            talker.model,
            talker.config.grid.delay_pattern(),
            DecodeOptions(),
            [prompt, talker.prompts.text_only_row(prompt)],
            [],
            audio_out=True,
        )


def test_it_learns_to_read_aloud_without_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = tiny_talker(tmp_path / "t", *TALKER)
    rows = training_rows(tmp_path, 3)
    before = snapshot(talker.model)
    monkeypatch.setattr(talker.model.backbone, "forward", lambda *_: pytest.fail("the backbone ran"))
    parts = ["output_adapter", "heads", "audio_embeddings", "special_tokens"]
    record = train(talker, stage(train=parts, tasks={"T1A1": 1.0}, losses={"audio": 1.0}, steps=25, batch_size=3), rows)
    assert record.loss_last < 0.9 * record.loss_first
    assert moved_parts(before, talker.model) == set(parts)
    monkeypatch.undo()
    assert moved_parts(snapshot(talker.model), load_talker(tmp_path / "t").model) == set()


def test_it_learns_from_answers_beside_other_tasks(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", *TALKER)
    tasks = {"T1A1": 1.0, "T1A2": 1.0, "A1A2": 1.0, "A1T2": 1.0}
    record = train(talker, stage(tasks=tasks, steps=20, batch_size=8), training_rows(tmp_path, 3))
    assert record.loss_last < record.loss_first


def pieces_of(talker: Talker, text: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Audio and text of an answer of so many steps."""
    ids = talker.model.backbone.tokenizer.encode(text)
    row = torch.full((1, steps + 3), NO_TEXT)
    row[0, 1 : len(ids) + 2] = torch.tensor([*ids, END_OF_TEXT])
    audio = torch.randn(1, steps + 3, talker.model.output_adapter.width)
    audio[:, steps:] = 0
    return audio, row


def test_steps_of_an_answer_end_with_its_last_sound() -> None:
    audio = torch.zeros(3, 6, 2)
    audio[0, 2:4] = 1.0
    audio[1, 5, 1] = -1.0
    assert spoken_steps(audio).tolist() == [4, 6, 0]


def test_pace_is_how_many_steps_the_guess_is_wrong() -> None:
    """Before anything is learned: 3.6 steps before, 10.4 behind, 1 for each letter and 4 for each digit."""
    adapter = alone().model.output_adapter
    assert isinstance(adapter, TalkerAdapter)
    with torch.no_grad():
        adapter.times.duration.weight.zero_()
    for text, guess in (("hello", 14 + 5), ("a 7", 14 + 2 + 4)):
        assert adapter.pace(*pieces_of(alone(), text, 20)).item() == pytest.approx(abs(guess - 20), abs=1e-3)


def test_it_learns_how_long_answers_take(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", *TALKER)
    learning = stage(
        tasks={"T1A1": 1.0}, losses={"audio": 1.0, "pace": 1.0}, steps=40, batch_size=3, learning_rate=5e-3
    )
    train(talker, learning, training_rows(tmp_path, 3, num_frames=20))
    log = [json.loads(line) for line in (tmp_path / "t/history/short.jsonl").read_text().splitlines()]
    assert log[-1]["pace"] < 0.5 * log[0]["pace"]


def test_only_adapters_with_it_have_the_loss_pace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no loss 'pace'"):
        train(
            tiny_talker(tmp_path / "t"),
            stage(tasks={"T1A1": 1.0}, losses={"audio": 1.0, "pace": 1.0}),
            training_rows(tmp_path, 2),
        )
