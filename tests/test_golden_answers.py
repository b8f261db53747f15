"""Answers that must never change: the same tokens, codes and words, whatever is rebuilt around them.

``python tests/test_golden_answers.py`` writes ``golden/answers.json`` anew, for an intended change only.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from talkers import hf_talker, make_talker
from torch import Tensor

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.sampling import SamplingOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import CodecStream

GOLDEN = Path(__file__).parent / "golden" / "answers.json"
WAVES = {"half": 8_000, "second": 16_000}
TASKS = {"A1A2": "half", "T1A2": "hi there", "A1T2": "second", "T1T2": "Why?", "A1T1": "half", "T1A1": "it is 7"}
SAMPLED = DecodeOptions(
    text=SamplingOptions(temperature=0.9, top_k=20),
    audio=SamplingOptions(temperature=1.0, top_p=0.9, repetition_penalty=1.2, repetition_window=4),
    max_columns=24,
    seed=7,
)
DECODINGS = {
    "greedy": DecodeOptions(max_columns=24),
    "one-row": DecodeOptions(max_columns=24, batch_parallel=False),
    "original": DecodeOptions(max_columns=24, rule="original"),
    "sampled": SAMPLED,
}
READS = {"width": 64, "letter_width": 64, "reads_states": True}
SPELLS = {"width": 64, "letter_width": 64, "num_layers": 2}
CTC = {"name": "ctc", "options": {"width": 16, "num_blocks": 1}}
BEAM = {"name": "beam", "options": {"beam": 4, "candidates": 6, "hearings": 2, "weight": 0.5, "context": "so: "}}
TALKERS: dict[str, dict[str, Any]] = {
    "tiny-blocks": {"adapter": "blocks"},
    "tiny-none-mean": {"adapter": "none", "merge": "mean", "end_of_text": "eot", "text_lead": 2},
    "tiny-talker": {"adapter": "talker", "adapter_options": READS, "text_lead": 2},
    "tiny-spells": {"adapter": "talker", "adapter_options": SPELLS, "input_adapter": CTC, "hearing": BEAM},
    "tiny-voices": {"adapter": "blocks", "speakers": ("anna", "bob"), "pattern": "parallel", "text_lead": "all"},
    "llama-blocks": {"adapter": "blocks", "system": "Be brief."},
    "llama-talker": {"adapter": "talker"},
}


def talker_named(name: str, folder: Path) -> Talker:
    torch.manual_seed(0)
    how = TALKERS[name]
    return hf_talker(folder, **how) if name.startswith("llama") else make_talker(**how)


class Recorded(CodecStream):
    """A codec's stream, and the codes that it was given."""

    def __init__(self, stream: CodecStream, kept: list[Tensor]) -> None:
        self.stream, self.kept = stream, kept

    def push(self, codes: Tensor) -> Tensor:
        self.kept.append(codes[0])
        return self.stream.push(codes)

    def flush(self) -> Tensor:
        return self.stream.flush()


def ask(talker: Talker, session: Session, **question: Any) -> dict[str, Any]:
    """What a session answers: text, its last token ids, codes."""
    kept: list[Tensor] = []
    ids: list[int] = []
    codec, tokenizer = talker.codec, talker.model.backbone.tokenizer
    new_stream, decode = type(codec).new_stream, type(tokenizer).decode

    def decoded(tokens: Any) -> str:
        ids[:] = list(tokens)
        return decode(tokenizer, tokens)

    codec.new_stream = lambda: Recorded(new_stream(codec), kept)  # type: ignore[method-assign]
    tokenizer.decode = decoded  # type: ignore[method-assign]
    *_, done = session.ask(**question)
    assert isinstance(done, AnswerDone)
    codes = torch.cat(kept, dim=1) if kept else torch.zeros(0, 0)
    del codec.new_stream, tokenizer.decode
    return {
        "text": done.text,
        "ids": ids[:],
        "codes": codes.int().tolist(),
        "reason": done.finish_reason,
        "columns": done.num_columns,
    }


def question_of(task: str) -> dict[str, Any]:
    if not task.startswith("A"):
        return {"task": task, "text": TASKS[task]}
    samples = np.arange(WAVES[TASKS[task]])
    return {"task": task, "wave": (0.3 * np.sin(samples / 9) + 0.1 * np.sin(samples / 31)).astype(np.float32)}


def answers_of(name: str, folder: Path) -> dict[str, Any]:
    """Of one talker: each task, decoded in several ways, and a conversation."""
    talker, found = talker_named(name, folder), {}
    voice = talker.config.speakers[-1] if talker.config.speakers else None
    for how, options in DECODINGS.items():
        for task in TASKS:
            found[f"{how} {task}"] = ask(
                talker,
                Session(talker),
                **question_of(task),
                options=options,
                speaker=voice if how == "sampled" else None,
            )
    session = Session(talker, stride_frames=3)
    for turn, task in enumerate(("A1A2", "T1A2", "T1A1", "A1T2")):
        found[f"turn {turn}"] = ask(talker, session, **question_of(task), options=DECODINGS["greedy"])
    return found


@pytest.mark.parametrize("name", TALKERS)
def test_a_tiny_talker_answers_as_ever(name: str, tmp_path: Path) -> None:
    wanted, found = json.loads(GOLDEN.read_text(encoding="utf-8"))[name], answers_of(name, tmp_path)
    assert found.keys() == wanted.keys()
    assert {key: value for key, value in found.items() if value != wanted[key]} == {}


if __name__ == "__main__":
    made: dict[str, Any] = {}
    for each in TALKERS:
        with tempfile.TemporaryDirectory() as place:
            made[each] = answers_of(each, Path(place))
    GOLDEN.write_text(json.dumps(made, separators=(",", ":")).replace('},"', '},\n"') + "\n", encoding="utf-8")
