"""Column by column through the caches equals the whole grid at once, wherever audio is fed back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from talkers import base_text, columns_from, end_text_after, generation_of, make_talker, spoken
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.runner import columns_of
from anytalk.grid.delay import PATTERNS
from anytalk.grid.prompts import Prompt
from anytalk.grid.tasks import TASKS
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneStates, Cache, GridBatch, SpeechDecoder


def record(model: TalkModel, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """What the heads read of each column, in order: (1,D) of the row that writes, (1,D) of the row that speaks."""
    text_logits, audio_logits = model.text_logits, model.audio_logits
    written: list[Tensor] = []
    said: list[Tensor] = []
    monkeypatch.setattr(model, "text_logits", lambda x: written.append(x[:, -1]) or text_logits(x))
    monkeypatch.setattr(model, "audio_logits", lambda x: said.append(x[:, -1]) or audio_logits(x))
    return written, said


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
    written, said = record(talker.model, monkeypatch)
    generation = generation_of(talker, task, batch_parallel=two_rows)
    columns = list(columns_of(generation))
    assert any(column.text is None for column in columns) == TASKS[task].audio_out
    speaks = TASKS[task].audio_out
    grids = [
        whole_grid(talker, prompt, columns, speaks=speaks and row == 0) for row, prompt in enumerate(generation.prompts)
    ]
    spans = [
        [(start, e) for (start, _), e in zip(prompt.speech_spans, generation.speech, strict=True)]
        for prompt in generation.prompts
    ]
    model = talker.model
    with torch.no_grad():
        full = model.backbone(model.embed(GridBatch(torch.stack(grids), spans)).backbone)
        heard = model.output_adapter(full)
    # The last column was generated, but never fed; text that has ended is not looked at.
    first = generation.prompts[0].num_columns - 1
    assert len(written) == min(6, len(columns))
    for i, normed in enumerate(written):
        torch.testing.assert_close(normed[0], full.normed[-1, first + i])
    assert len(said) == (len(columns) if speaks else 0)
    for i, hidden in enumerate(said):
        torch.testing.assert_close(hidden[0], heard[0, first + i])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("merge", ["sum", "mean"])
@pytest.mark.parametrize("adapter", ["blocks", "none"])
@pytest.mark.parametrize(("task", "two_rows"), [("A1A2", True), ("T1A2", False), ("A1T2", False)])
def test_steps_equal_the_full_forward(
    pattern: str, merge: str, adapter: str, task: str, two_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = make_talker(adapter=adapter, pattern=pattern, merge=merge)
    check_against_full_forward(talker, task, monkeypatch, two_rows)


class EchoAdapter(SpeechDecoder):
    """Fed with audio itself, so that the backbone sees text only."""

    @property
    def width(self) -> int:
        return 16

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> EchoAdapter:
        return cls()

    def forward(
        self, audio: Tensor, text: Tensor, states: BackboneStates | None = None, cache: Cache | None = None
    ) -> Tensor:
        return 3 * audio if states is None else states.normed + 3 * audio

    def new_cache(self, batch_size: int, max_steps: int) -> Cache | None:
        return None


def test_audio_fed_to_the_adapter_is_hidden_from_the_backbone() -> None:
    talker = make_talker()
    talker.model.output_adapter = EchoAdapter()
    generation = generation_of(talker, batch_parallel=False)
    sound = spoken(list(columns_of(generation)))
    assert generation.answer.text_ids == base_text(talker, "hi", 12)
    with torch.no_grad():
        talker.model.audio_embeddings.weight[:, :6] *= -5
    assert spoken(list(columns_from(talker, batch_parallel=False))).tolist() != sound.tolist()
