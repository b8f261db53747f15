"""Measure what a talker keeps of its language model (``text_retention``) and what speech loses (``modality_gap``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anytalk.decode.greedy import bare_answer
from anytalk.decode.session import listen, spoken_turn, task_after
from anytalk.errors import DataError
from anytalk.evaluate.config import ModalityGapMeasure, TextRetentionMeasure
from anytalk.evaluate.grids import (
    answer_logits,
    grid_logits,
    kl_per_token,
    negative_log_likelihood,
    text_columns,
    write_answer,
)
from anytalk.evaluate.lab import Lab, lacks_question
from anytalk.evaluate.matching import expected_answers, is_contained
from anytalk.evaluate.parent import parent_logits, parent_prompt
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Figure
from anytalk.evaluate.wer import normalise, word_error_rate
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import A1T2, T1T2

_END = -1
"""Marks the end of an answer in comparisons; talker and parent may have different end tokens."""


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading ids are equal."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def measure_text_retention(lab: Lab, measure: TextRetentionMeasure, result: Result) -> None:
    """Compare the talker's text path with the language model that it was made from."""
    talker, parent = lab.talker, lab.parent
    rows = lab.rows(measure, result, lambda row: lacks_question(row, ("text",), False))
    texts = [*measure.texts, *(read_lines(Path(measure.texts_file)) if measure.texts_file else [])]
    is_identical = True
    for _, row, guard in lab.each(rows, result):
        with guard:
            question = row.question_text or ""
            asked = parent_prompt(talker, parent, question)
            theirs = list(bare_answer(parent, asked, measure.max_tokens))
            prompt = talker.prompts.prompt(T1T2, [Turn("user", question)])
            mine, ended = write_answer(talker, prompt, [], measure.max_tokens)
            before = parent_logits(parent, [*asked, *theirs[:-1]])
            after = answer_logits(talker, prompt, [], theirs)
            # Only chat prompts are the same for both models, so that all logits can be compared.
            if talker.config.grid.prompt == "chat":
                whole = grid_logits(talker, text_columns(talker, [*asked, *theirs[:-1]]))
                is_identical &= torch.equal(before, whole)
            # The last column of the prompt predicts the first token of the answer.
            kl = kl_per_token(before[len(asked) - 1 :], after)
            # Ending at the same place counts as agreement.
            has_end = theirs[-1] in parent.end_ids
            marked = [*theirs[:-1], _END] if has_end else theirs
            written = [*mine, _END] if ended else mine
            result.items.append(
                {
                    "id": row.id,
                    "question": question,
                    "parent": parent.tokenizer.decode(theirs[:-1] if has_end else theirs).strip(),
                    "talker": talker.model.backbone.tokenizer.decode(mine).strip(),
                    "tokens": len(theirs),
                    "agreeing": common_prefix(marked, written),
                    "share": common_prefix(marked, written) / len(theirs),
                    "identical": marked == written,
                    "kl": float(kl.sum()),
                }
            )
    tokens = [item["tokens"] for item in result.items]
    result.keep(
        greedy_agreement=lab.bootstrap.ratio([item["agreeing"] for item in result.items], tokens),
        identical_answers=lab.bootstrap.mean([float(item["identical"]) for item in result.items]),
        kl=lab.bootstrap.ratio([item["kl"] for item in result.items], tokens),
    )
    is_identical &= _measure_texts(lab, texts, result)
    if talker.config.grid.prompt == "chat" or texts:
        result.keep(bit_identical=Figure(float(is_identical), len(result.items) + len(texts)))
    if talker.config.grid.prompt != "chat":
        result.notes.append(
            "This talker's raw prompts hold tokens that the parent doesn't know: the parent was asked by its own "
            "prompt, and only the plain texts were compared bit for bit."
        )
    result.pick_worst("share", lab.suite.worst, reverse=False)
    result.worst = [item for item in result.worst if not item["identical"]]


def _measure_texts(lab: Lab, texts: Sequence[str], result: Result) -> bool:
    """Compute both perplexities of the texts; return whether all logits are equal bit for bit."""
    talker, parent = lab.talker, lab.parent
    lost, mine, counts = [], [], []
    is_identical = True
    for number, text in enumerate(texts, start=1):
        ids = parent.tokenizer.encode(text)
        if len(ids) < 2:
            result.skipped.append({"id": f"text {number}", "reason": "is shorter than two tokens"})
            continue
        before, after = parent_logits(parent, ids), grid_logits(talker, text_columns(talker, ids))
        is_identical &= torch.equal(before, after)
        lost.append(negative_log_likelihood(before, ids))
        mine.append(negative_log_likelihood(after, ids))
        counts.append(float(len(ids) - 1))
    if counts:
        result.keep(
            perplexity_parent=_exp(lab.bootstrap.ratio(lost, counts)),
            perplexity_talker=_exp(lab.bootstrap.ratio(mine, counts)),
        )
    return is_identical


def _exp(figure: Figure) -> Figure:
    """Convert nats per token to perplexity."""
    low, high = (None if end is None else math.exp(end) for end in (figure.low, figure.high))
    return replace(figure, value=math.exp(figure.value), low=low, high=high)


def read_lines(path: Path) -> list[str]:
    """Return the non-blank lines of a file; DataError if it is missing or isn't UTF-8."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' can't be read: {error}", "give a UTF-8 file with a text on each line") from None
    return [line.strip() for line in lines if line.strip()]


def measure_modality_gap(lab: Lab, measure: ModalityGapMeasure, result: Result) -> None:
    """Ask each question as text and as speech, and compare the two text answers."""
    talker, budget = lab.talker, lab.suite.max_columns
    tokenizer, end = talker.model.backbone.tokenizer, talker.model.layout.end_of_text_id
    cascade = None if measure.transcriber is None else lab.build("transcriber", measure.transcriber)
    answers: dict[bytes, tuple[list[int], bool]] = {}  # the same prompt has the same answer

    def answer(prompt: Prompt, speech: Sequence[torch.Tensor] = ()) -> tuple[list[int], bool]:
        if speech:
            return write_answer(talker, prompt, speech, budget)
        asked = prompt.tokens.tobytes()
        if asked not in answers:
            answers[asked] = write_answer(talker, prompt, [], budget)
        return answers[asked]

    def typed_in(question: str) -> Prompt:
        return talker.prompts.prompt(T1T2, [Turn("user", question)])

    rows = lab.rows(measure, result, lambda row: lacks_question(row, ("text", "speech"), lab.can_speak()))
    for _, row, guard in lab.each(rows, result):
        with guard:
            question = row.question_text or ""
            wave = lab.question_wave(row)
            heard = listen(talker, wave, row.id)
            speech = [] if heard.columns is None else [heard.columns]
            spoken = talker.prompts.prompt(task_after(A1T2, heard), [spoken_turn("user", None, heard)])
            typed = typed_in(question)
            ids, ended = answer(typed)
            by_text = tokenizer.decode(ids).strip()
            by_speech = tokenizer.decode(answer(spoken, speech)[0]).strip()
            counts = word_error_rate([by_text], [by_speech])
            item: dict[str, Any] = {
                "id": row.id,
                "question": question,
                "heard": heard.text,
                "asked_by_text": by_text,
                "asked_by_speech": by_speech,
                "agree": normalise(by_text) == normalise(by_speech),
                "errors": counts.errors,
                "words": counts.reference_words,
                "kl": [],
            }
            ears = talker.model.listener
            if cascade is not None and ears is not None:
                transcript = cascade.transcribe(wave, ears.sample_rate_hz)
                by_cascade = tokenizer.decode(answer(typed_in(transcript))[0]).strip() if transcript else ""
                agree = normalise(by_text) == normalise(by_cascade)
                item |= {"cascade_heard": transcript, "asked_by_cascade": by_cascade, "cascade_agree": agree}
            # The end token eot has an id above the vocabulary, so it isn't part of the logits that are compared.
            along = [*ids, end] if ended and end < talker.model.layout.text_vocab_size else ids
            if along:
                first, second = (answer_logits(talker, p, s, along) for p, s in ((typed, []), (spoken, speech)))
                item["kl"] = [round(float(value), 6) for value in kl_per_token(first, second)]
            expected = expected_answers(row.answer_text)
            if expected:
                item |= {
                    "right_by_text": is_contained(by_text, expected),
                    "right_by_speech": is_contained(by_speech, expected),
                }
            result.items.append(item)
    items, bootstrap = result.items, lab.bootstrap
    known = [item for item in items if "right_by_text" in item]
    by_text_right = [float(item["right_by_text"]) for item in known]
    by_speech_right = [float(item["right_by_speech"]) for item in known]
    agreeing = [float(item["agree"]) for item in items]
    if cascade is not None:
        others = [float(item["cascade_agree"]) for item in items]
        result.keep(
            cascade_agreement=bootstrap.mean(others),
            agreement_lead=bootstrap.mean([a - b for a, b in zip(agreeing, others, strict=True)]),
        )
    result.keep(
        answer_agreement=bootstrap.mean(agreeing),
        answer_wer=bootstrap.ratio([item["errors"] for item in items], [item["words"] for item in items]),
        kl=bootstrap.ratio([sum(item["kl"]) for item in items], [len(item["kl"]) for item in items]),
        accuracy_text=bootstrap.mean(by_text_right),
        accuracy_speech=bootstrap.mean(by_speech_right),
        accuracy_gap=bootstrap.mean([a - b for a, b in zip(by_text_right, by_speech_right, strict=True)]),
        expected_kept=bootstrap.mean([b for a, b in zip(by_text_right, by_speech_right, strict=True) if a]),
    )
    result.pick_worst("errors", lab.suite.worst)
