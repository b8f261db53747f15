"""Column by column through the caches equals the whole grid at once, wherever audio is fed back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from talkers import base_text, end_text_after, generation_of, make_talker, spoken
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.grid.delay import PATTERNS
from anytalk.grid.prompts import Prompt
from anytalk.grid.tasks import TASKS
from anytalk.model.talk_model import GridBatch, Hidden, TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneStates, Cache, OutputAdapter


def record(model: TalkModel, monkeypatch: pytest.MonkeyPatch) -> list[Hidden]:
    """What the model computed at every call, in order."""
    run, seen = model.run, []

    def recorded(*args: Any, **kwargs: Any) -> Hidden:
        seen.append(run(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(model, "run", recorded)
    return seen


def whole_grid(talker: Talker, prompt: Prompt, columns: list[Column], *, speaks: bool) -> Tensor:
    """Prompt and answer of one batch row, (S,T)."""
    layout = talker.model.layout
    answer = np.full((layout.num_streams, len(columns)), layout.pad_a, dtype=np.int64)
    answer[layout.text_row] = [layout.pad_t if column.text is None else column.text for column in columns]
    if speaks:
        answer[: layout.text_row] = spoken(columns)
    return torch.from_numpy(np.concatenate([prompt.tokens, answer], axis=1))


def check_against_full_forward(talker: Talker, task: str, monkeypatch: pytest.MonkeyPatch, two_rows: bool) -> None:
    end_text_after(talker, 5, monkeypatch)
    seen = record(talker.model, monkeypatch)
    generation = generation_of(talker, task, batch_parallel=two_rows)
    columns = list(generation)
    assert any(column.text is None for column in columns) == TASKS[task].audio_out
    speaks = TASKS[task].audio_out
    grids = [
        whole_grid(talker, prompt, columns, speaks=speaks and row == 0) for row, prompt in enumerate(generation.prompts)
    ]
    spans = [
        [(start, e) for (start, _), e in zip(prompt.speech_spans, generation.speech, strict=True)]
        for prompt in generation.prompts
    ]
    with torch.no_grad():
        embeds, audio = talker.model.embed(GridBatch(torch.stack(grids), spans))
        full = talker.model.run(embeds, audio, None, int(speaks))
    # The last column was generated, but never fed.
    stepwise = seen[: len(columns)]
    first = generation.prompts[0].num_columns - 1
    for i, hidden in enumerate(stepwise):
        for row in range(hidden.states.normed.shape[0]):
            torch.testing.assert_close(hidden.states.normed[row, -1], full.states.normed[row, first + i])
        if speaks:
            assert hidden.audio is not None
            assert full.audio is not None
            torch.testing.assert_close(hidden.audio[0, -1], full.audio[0, first + i])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("merge", ["sum", "mean"])
@pytest.mark.parametrize("adapter", ["blocks", "none"])
@pytest.mark.parametrize(("task", "two_rows"), [("A1A2", True), ("T1A2", False), ("A1T2", False)])
def test_steps_equal_the_full_forward(
    pattern: str, merge: str, adapter: str, task: str, two_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = make_talker(adapter=adapter, pattern=pattern, merge=merge)
    check_against_full_forward(talker, task, monkeypatch, two_rows)


class EchoAdapter(OutputAdapter):
    """Fed with audio itself, so that the backbone sees text only."""

    feedback = "adapter"

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> EchoAdapter:
        return cls()

    def forward(
        self,
        states: BackboneStates,
        audio: Tensor | None = None,
        cache: Cache | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        assert audio is not None
        assert text is not None
        assert audio.shape == states.normed.shape
        return states.normed + 3 * audio

    def new_cache(self, batch_size: int, max_steps: int) -> Cache | None:
        return None


def test_audio_fed_to_the_adapter_is_hidden_from_the_backbone() -> None:
    talker = make_talker()
    talker.model.output_adapter = EchoAdapter()
    generation = generation_of(talker, batch_parallel=False)
    sound = spoken(list(generation))
    assert generation.answer.text_ids == base_text(talker, "hi", 12)
    with torch.no_grad():
        talker.model.audio_embeddings.weight[:, :6] *= -5
    assert spoken(list(generation_of(talker, batch_parallel=False))).tolist() != sound.tolist()
