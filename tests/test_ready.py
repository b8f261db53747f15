"""Faster ways of answering give the plain way's answers: shared prompts, other arithmetics, a codec in a thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from talkers import end_text_after, generation_of, make_talker, spoken
from test_engine_cache import record
from torch import Tensor

from anytalk.bench.reference import reference_talker
from anytalk.decode.answer import Answer
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.ready import calibrate, make_talker_ready
from anytalk.decode.runner import columns_of
from anytalk.decode.session import Session
from anytalk.errors import ConfigError
from anytalk.grid.delay import DelayPattern
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import GridBatch


def test_both_rows_share_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    shapes: list[tuple[int, int]] = []
    forward = talker.model.backbone.forward

    def watched(embeds: Tensor, cache: Any = None) -> Any:
        shapes.append((embeds.shape[0], embeds.shape[1]))
        return forward(embeds, cache)

    monkeypatch.setattr(talker.model.backbone, "forward", watched)
    generation = generation_of(talker)
    next(iter(columns_of(generation)))
    columns = generation.prompts[0].num_columns
    assert shapes == [(1, columns - 1), (2, 1)]


def test_sharing_the_prompt_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = reference_talker("tiny")
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    model = talker.model
    written, said = record(model, monkeypatch)
    list(Session(talker).ask(wave=wave, options=DecodeOptions(max_columns=2)))
    from anytalk.decode.session import listen
    from anytalk.grid.prompts import Turn
    from anytalk.grid.tasks import TASKS

    speech = listen(talker, wave).columns
    assert speech is not None
    prompt = talker.prompts.prompt(TASKS["A1A2"], [Turn("user", None, speech_columns=speech.shape[0])])
    rows = [prompt, talker.prompts.text_only_row(prompt)]
    tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
    with torch.no_grad():
        spans = [[(s, speech) for s, _ in row.speech_spans] for row in rows]
        whole = model.backbone(model.embed(GridBatch(tokens, spans)).backbone)
        heard = model.output_adapter(whole)
    torch.testing.assert_close(written[0][0], whole.normed[1, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said[0][0], heard[0, -1], atol=1e-5, rtol=1e-5)


def answers(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], np.ndarray]:
    end_text_after(talker, 9, monkeypatch)
    generation = generation_of(talker)
    columns = list(columns_of(generation))
    return generation.answer.text_ids, spoken(columns)


@pytest.mark.parametrize("arithmetic", ["fused", "packed"])
def test_equal_arithmetics_give_the_same_answer(arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = answers(make_talker(), monkeypatch)
    text, audio = answers(make_talker_ready(make_talker(), arithmetic), monkeypatch)
    assert text == exact[0]
    assert audio.tolist() == exact[1].tolist()


@pytest.mark.parametrize("arithmetic", ["fused", "packed", "int8", "int4"])
def test_the_reference_stack_made_ready_stays_near(arithmetic: str) -> None:
    exact, made = reference_talker("tiny"), make_talker_ready(reference_talker("tiny"), arithmetic)
    tokens = torch.randint(0, 60, (2, 8, 20), generator=torch.Generator().manual_seed(0))
    logits = []
    for talker in (exact, made):
        model = talker.model
        with torch.no_grad():
            cache = model.new_cache(2, 20, 1)
            embeds = model.embed(GridBatch(tokens)).backbone
            pieces = [model.backbone(piece, cache.backbone) for piece in embeds.split([15, 1, 4], dim=1)]
            heard = [
                model.output_adapter(type(states)(*(part[:1] for part in states)), cache.output_adapter)
                for states in pieces
            ]
            text = model.text_logits(torch.cat([states.normed for states in pieces], dim=1))
            sound = model.audio_logits(torch.cat(heard, dim=1))
            logits.append((text, sound))
    for wanted, found in zip(*logits, strict=True):
        error = float((wanted - found).norm() / wanted.norm())
        assert error < {"int8": 0.05, "int4": 0.2}.get(arithmetic, 1e-5)


def test_what_the_configuration_says_is_the_default() -> None:
    talker = make_talker()
    assert make_talker_ready(talker) is talker
    assert type(talker.model.backbone.head).__name__ == "Linear"
    talker.config = talker.config.replace(arithmetic="packed")
    make_talker_ready(talker)
    assert type(talker.model.backbone.head).__name__ == "PackedMatrix"
    with pytest.raises(ConfigError, match="unknown arithmetic 'int3'"):
        make_talker_ready(talker, "int3")


def test_calibration_sees_every_matrix_and_moves_nothing() -> None:
    talker = reference_talker("tiny")
    before = {name: tensor.clone() for name, tensor in talker.model.state_dict().items()}
    peaks = calibrate(talker)
    linears = {m for m in talker.model.backbone.modules() if isinstance(m, torch.nn.Linear)}
    assert linears <= set(peaks)
    assert talker.model.heads.linear in peaks
    make_talker_ready(reference_talker("tiny"), "int8")
    assert all(torch.equal(before[name], tensor) for name, tensor in talker.model.state_dict().items())


def test_an_adapter_that_speaks_alone_is_made_ready() -> None:
    talker = make_talker(adapter="talker")
    made = make_talker_ready(make_talker(adapter="talker"), "packed")
    for spoken_by in (talker, made):
        generation = generation_of(spoken_by, "T1A2", batch_parallel=False)
        assert len(list(columns_of(generation))) > 5


# ---- long answers


def test_late_frames_look_at_their_own_columns_only() -> None:
    pattern = DelayPattern("delay", 3, 12)
    answer = Answer(pattern)
    random = np.random.default_rng(0)
    answer.columns = [random.integers(0, 12, 3) for _ in range(40)]
    whole = answer.codes()
    for first, stop in ((0, 5), (7, 8), (20, answer.frames_ready), (36, 36)):
        assert np.array_equal(answer.codes(first, stop), whole[:, first:stop])
    answer.columns[30][1] = 99  # frame 28 of stream 1 is no code: the one before it stands in its place
    assert answer.codes(28, 29)[1, 0] == whole[1, 27]
    assert np.array_equal(answer.codes(29), whole[:, 29:])
