"""The `ctc` input adapter: what is heard stands where it would have been typed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import model_folder, stage, tiny_talker, train, training_rows
from torch import Tensor
from torch.nn import functional as F

from anytalk.data.batches import Batch
from anytalk.decode.session import Session, listen
from anytalk.decode.telling import AnswerDone
from anytalk.errors import ConfigError
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone, BackboneStates, Cache
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_hearing
from anytalk.train.elastic import take_out
from anytalk_adapters.beam_hearing import BeamHearing
from anytalk_adapters.ctc_adapter import CtcAdapter, Speller
from anytalk_adapters.ctc_search import found_lines, likeliest_lines, line_likelihoods
from anytalk_adapters.likely_words import Reader, mark_tokens

CTC = ["input_adapter={name: ctc, options: {width: 16, num_blocks: 1, dropout: 0.0}}"]


@pytest.fixture
def backbone() -> Backbone:
    part: Backbone = default_registry().build("backbone", PartRef(name="tiny"))
    return part


def perfect(backbone: Backbone, places: list[int | None]) -> CtcAdapter:
    """An adapter that hears these tokens (None: a blank) whatever it is given, one in each frame."""
    torch.manual_seed(0)
    adapter = CtcAdapter(CtcAdapter.Options(width=8, num_blocks=0, factor=1, spelling_width=0), 4, backbone).eval()
    norms = F.normalize(backbone.embed_text(torch.tensor([[p or 0 for p in places]])), dim=-1)[0]
    scores = torch.tensor([[1e3 if p is None else -1e3] for p in places])
    listen = (200 * norms)[None], scores[None], torch.tensor([len(places)])
    adapter._listen = lambda features, lengths: listen  # type: ignore[method-assign]
    return adapter


def test_what_is_heard_well_is_the_typed_question(backbone: Backbone) -> None:
    adapter = perfect(backbone, [None, 7, 7, None, 7, 9, 9, 9, None, 4])
    columns, counts, lines = adapter(torch.randn(1, 10, 4), torch.tensor([10]))
    assert lines == [(7, 7, 9, 4)]
    assert counts.tolist() == [4]  # 7 7 with a blank between are two, 9 9 9 is one
    typed = backbone.embed_text(torch.tensor([[7, 7, 9, 4]]))
    torch.testing.assert_close(columns[:, :4], typed, atol=1e-5, rtol=1e-4)


def test_letters_tell_tokens_apart(backbone: Backbone) -> None:
    torch.manual_seed(0)
    speller = Speller(backbone.tokenizer, backbone.text_vocab_size, 8, 16)
    again = backbone.tokenizer.encode("abca")
    keys = speller(torch.tensor(again))
    torch.testing.assert_close(keys[0], keys[3])  # the same letter is the same key
    assert not torch.allclose(keys[0], keys[1])
    adapter = CtcAdapter(CtcAdapter.Options(width=8, num_blocks=0, spelling_width=8), 4, backbone)
    meaning = F.normalize(backbone.embed_text(torch.tensor([again]))[0], dim=-1)
    assert not torch.allclose(adapter._keys(torch.tensor(again))[1], meaning)


def test_hidden_frames_are_hidden_in_training_only(backbone: Backbone) -> None:
    options = CtcAdapter.Options(width=8, num_blocks=0, factor=1, dropout=0.0, frame_dropout=0.5)
    adapter = CtcAdapter(options, 4, backbone)
    features, lengths = torch.randn(1, 40, 4), torch.tensor([40])
    with torch.no_grad():
        torch.manual_seed(0)
        trained = adapter.train()._listen(features, lengths)[0]
        plain = adapter.eval()._listen(features, lengths)[0]
    same = torch.isclose(trained, plain).all(dim=-1)[0]
    assert 0 < same.sum() < 40


def test_silence_is_one_column(backbone: Backbone) -> None:
    columns, counts, _ = perfect(backbone, [None, None, None])(torch.randn(1, 3, 4), torch.tensor([3]))
    assert counts.tolist() == [1]
    assert torch.isfinite(columns).all()


def test_align_is_the_likelihood_of_the_transcript(backbone: Backbone) -> None:
    adapter = perfect(backbone, [7, None, 9])
    good, bad = (
        adapter.align(torch.randn(1, 3, 4), torch.tensor([3]), [torch.tensor(ids)]).item() for ids in ([7, 9], [9, 7])
    )
    assert good < 1e-3 < 50 < bad


def test_align_compares_with_the_whole_vocabulary(backbone: Backbone) -> None:
    torch.manual_seed(0)
    vocabulary = backbone.text_vocab_size
    adapter = CtcAdapter(CtcAdapter.Options(width=8, factor=1, negatives=vocabulary), 4, backbone).eval()
    features, lengths = torch.randn(2, 9, 4), torch.tensor([9, 6])
    transcripts = [torch.tensor([7, 9, 9]), torch.tensor([4])]
    chances = adapter.token_chances(features, lengths)
    expected = [
        F.ctc_loss(line, ids[None] + 1, torch.tensor([len(line)]), torch.tensor([len(ids)]), reduction="none")
        for line, ids in zip(chances, transcripts, strict=True)
    ]
    torch.testing.assert_close(adapter.align(features, lengths, transcripts), torch.stack(expected))


def test_drawn_tokens_stand_for_all_others(backbone: Backbone) -> None:
    torch.manual_seed(0)
    adapter = CtcAdapter(CtcAdapter.Options(width=8, negatives=20), 4, backbone)
    own = torch.tensor([3, 70])
    counts = torch.zeros(backbone.text_vocab_size, dtype=torch.float64)
    for _ in range(2000):
        others, log_counts = adapter._others(own)
        counts[others] += log_counts.exp().double()
    counts /= 2000
    assert counts[own].tolist() == [0, 0]
    assert counts[4:20].tolist() == [1] * 16  # low ids are in every draw
    rare = torch.cat([counts[20:70], counts[71:]])
    assert rare.mean().item() == pytest.approx(1, abs=0.02)
    assert len(others) < 0.6 * backbone.text_vocab_size


def test_only_adapters_with_it_have_the_loss_align(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    align = stage(train=["input_adapter"], tasks={"A1T1": 1.0}, losses={"align": 1.0})
    with pytest.raises(ConfigError, match="has no loss 'align'"):
        train(talker, align, training_rows(tmp_path, 2))


def test_it_learns_alone_then_behind_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = tiny_talker(tmp_path / "t", *CTC)
    rows = training_rows(tmp_path, 2, question_s=0.6)
    align = stage(name="a", train=["input_adapter"], tasks={"A1T1": 1.0}, losses={"align": 1.0}, steps=40)
    with monkeypatch.context() as patch:
        patch.setattr(talker.model.backbone, "forward", lambda *_: pytest.fail("the backbone ran"))
        record = train(talker, align, rows)
    assert record.loss_last < 0.7 * record.loss_first
    behind = stage(name="b", train=["input_adapter"], tasks={"A1T1": 1.0, "A1T2": 1.0}, losses={"text": 1.0}, steps=3)
    before = talker.model.input_adapter.out.weight.detach().clone()
    train(talker, behind, rows)
    assert not torch.equal(before, talker.model.input_adapter.out.weight)


def test_columns_without_a_token_are_taken_out() -> None:
    # Row 0: prompt 1 2, four planned columns (two heard), then 3 4; row 1: 5, two planned (both heard), then 6 7 8 9.
    tokens = torch.tensor([[[1, 2, 0, 0, 0, 0, 3, 4]], [[5, 0, 0, 6, 7, 8, 9, 0]]])
    mask = torch.tensor([[[0, 0, 0, 0, 0, 0, 0, 1]], [[0, 0, 0, 0, 0, 0, 1, 0]]], dtype=torch.bool)
    batch = Batch(
        tokens=tokens,
        loss_mask=mask,
        speech=[[(2, 0)], [(1, 1)]],
        features=None,
        waves=None,
        lengths=None,
        answer_mask=mask[:, 0],
        speaker=torch.zeros(2, dtype=torch.int64),
    )
    shorter = take_out(batch, [4, 2], [2, 2])
    assert shorter.tokens.tolist() == [[[1, 2, 0, 0, 3, 4, 0, 0]], [[5, 0, 0, 6, 7, 8, 9, 0]]]
    assert shorter.loss_mask[:, 0].long().tolist() == [[0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert shorter.speech == [[(2, 0)], [(1, 1)]]
    assert take_out(batch, [4, 2], [4, 2]) is batch


def test_it_needs_an_encoder_width() -> None:
    with pytest.raises(Exception, match="encoder"):
        default_registry().build("input adapter", PartRef(name="ctc"), BuildContext())


def test_a_transcript_is_no_longer_than_what_was_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = tiny_talker(tmp_path / "t")
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    heard = listen(talker, wave).num_columns
    logits = talker.model.text_logits
    # It never wants to end.
    monkeypatch.setattr(
        talker.model, "text_logits", lambda h: logits(h).index_fill(-1, torch.tensor(ends(talker)), -1e4)
    )
    done = next(event for event in Session(talker).ask(wave=wave, task="A1T1") if isinstance(event, AnswerDone))
    assert (done.finish_reason, done.num_columns) == ("length", 2 * heard + 8)


def test_ears_that_hear_tokens_write_them_down_without_the_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t", *CTC)
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    backbone, heard = talker.model.backbone, listen(talker, wave).line
    assert heard

    def never(*_: object) -> None:
        raise AssertionError("the backbone has nothing to do")

    monkeypatch.setattr(type(backbone), "forward", never)
    events = list(Session(talker).ask(wave=wave, task="A1T1"))
    done = events[-1]
    assert isinstance(done, AnswerDone)
    assert (done.finish_reason, done.text) == ("stop", backbone.tokenizer.decode(heard))


def test_a_beam_hears_the_likeliest_line_and_not_each_frames_likeliest_token() -> None:
    # Frame by frame: 0 then 1. Over all ways: "1" is heard as (blank 1), (1 1): .3 * .9 + .25 * .9 = .495 > .45 * .9.
    blanks = [math.log(0.3), math.log(0.05)]
    tokens = [[(0, math.log(0.45)), (1, math.log(0.25))], [(1, math.log(0.9)), (0, math.log(0.05))]]
    lines = dict(likeliest_lines(blanks, tokens, beam=16))
    assert lines[(1,)] == pytest.approx(math.log(0.3 * 0.9 + 0.25 * 0.9 + 0.25 * 0.05))
    assert lines[(0, 1)] == pytest.approx(math.log(0.45 * 0.9))
    assert max(lines, key=lambda line: lines[line]) == (1,)
    assert sum(math.exp(chance) for chance in lines.values()) == pytest.approx(1.0)
    assert likeliest_lines(blanks, tokens, beam=1)[0][0] == (0, 1)  # what was dropped early can't come back


def test_all_lines_of_a_small_alphabet_are_ctc_s_own_probabilities() -> None:
    torch.manual_seed(0)
    frames = torch.randn(5, 3).log_softmax(-1).detach()
    tokens = [list(enumerate(frame[1:].tolist())) for frame in frames]
    lines = [(line, chance) for line, chance in likeliest_lines(frames[:, 0].tolist(), tokens, beam=1000) if line]
    expected = line_likelihoods(frames, [line for line, _ in lines])
    assert [chance for _, chance in lines] == pytest.approx(expected, abs=1e-4)


def test_a_line_that_is_likely_in_every_hearing_comes_before_one_that_is_likelier_in_one() -> None:
    # Two hearings of one frame: they agree on token 1, and each has a favourite that the other hardly holds.
    hearings = [torch.tensor([[1e-6, 0.55, 0.45, 1e-4]]).log(), torch.tensor([[1e-6, 1e-4, 0.45, 0.55]]).log()]
    lines = found_lines(hearings, candidates=3, beam=4)
    assert list(lines) == [(1,), (0,), (2,)]
    assert lines[(1,)] == pytest.approx(math.log(0.45), abs=1e-4)
    assert lines[(0,)] == pytest.approx((math.log(0.55) + math.log(1e-4)) / 2, abs=1e-4)
    assert next(iter(found_lines(hearings[:1], candidates=3, beam=4))) == (0,)


def test_a_clip_in_which_no_frame_holds_a_token_has_still_one() -> None:
    silence = torch.tensor([[0.0, -40.0, -30.0], [0.0, -40.0, -40.0]])
    assert list(found_lines([silence], candidates=2, beam=4)) == [(1,)]


def reader(backbone: Backbone, **options: Any) -> Reader:
    return Reader(backbone, **{"context": "", "weight": 0.0} | options)


def test_the_backbone_decides_between_lines_that_sound_alike(backbone: Backbone) -> None:
    torch.manual_seed(1)
    pairs = [(a, b) for a in range(4, 12) for b in range(4, 12)]
    scores, _ = reader(backbone).read(pairs, [])
    favourite = pairs[scores.index(max(scores))]
    other = next(pair for pair in pairs if pair[0] == favourite[0] and pair != favourite)
    heard = {other: math.log(0.51), favourite: math.log(0.49)}
    assert reader(backbone).choose(heard) == other
    assert reader(backbone, weight=5.0).choose(heard) == favourite
    assert reader(backbone, weight=5.0, num_lines=1).choose(heard) == other  # it read the likeliest one only
    assert reader(backbone, weight=5.0, margin=0.01).choose(heard) == other  # 0.04 apart
    assert reader(backbone, weight=5.0, margin=0.1).choose(heard) == favourite
    # Padding behind a short line changes nothing, and the context is where a line begins.
    torch.testing.assert_close(reader(backbone).read([favourite, (4,)], [])[0][0], max(scores))
    ids = torch.tensor([[*backbone.tokenizer.encode("so: "), *favourite]])
    chances = backbone.text_logits(backbone(backbone.embed_text(ids)).normed)[0].log_softmax(-1).detach()
    expected = sum(chances[place, token] for place, token in zip((-3, -2), favourite, strict=True))
    torch.testing.assert_close(reader(backbone, context="so: ").read([favourite], [])[0][0], float(expected))


def test_a_long_context_is_read_once(tmp_path: Path) -> None:
    llama: Backbone = default_registry().build(
        "backbone", PartRef(name="llama", options={"model": str(model_folder(tmp_path, "llama"))})
    )
    run, shapes = llama.forward, []

    def watched(embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        shapes.append(tuple(embeds.shape[:2]))
        return run(embeds, cache)

    llama.forward = watched  # type: ignore[method-assign]
    lines, marks = [(5, 9, 4), (7,)], [6, 8]
    one = reader(llama, context="what people say is ")
    length = len(llama.tokenizer.encode(one.context))
    found = [one.read(lines, marks) for _ in range(2)]
    assert shapes == [(1, length - 1), (2, 4), (2, 4)]
    # A cache that can't be taken apart: everything is read each time.
    whole = reader(llama, context=one.context)
    whole.__dict__["_kept"] = None
    wanted = whole.read(lines, marks)
    assert shapes[3:] == [(2, length + 3)]
    for said, fits in found:
        assert said == pytest.approx(wanted[0], abs=1e-4)
        assert np.array(fits) == pytest.approx(np.array(wanted[1]), abs=1e-4)


def test_what_was_read_is_forgotten_when_the_backbone_may_have_changed(backbone: Backbone) -> None:
    adapter = perfect(backbone, [None, 7, 7, None, 9])
    hearing = BeamHearing(BeamHearing.Options(beam=8, weight=0.5, context="so: "), adapter, backbone)
    hearing(torch.randn(1, 5, 4), torch.tensor([5]))
    first = hearing._reader
    hearing(torch.randn(1, 5, 4), torch.tensor([5]))
    assert first is not None
    assert hearing._reader is first
    hearing.eval()
    assert hearing._reader is None


def test_the_words_decide_about_the_mark_behind_them(backbone: Backbone) -> None:
    marks = mark_tokens(backbone.tokenizer)
    assert backbone.tokenizer.decode(marks) == ".?!"
    words, others = (5, 9), (6, 9)
    ends = reader(backbone).read([words], marks)[1][0]
    fitting, unfitting = marks[ends.index(max(ends))], marks[ends.index(min(ends))]
    # Heard with either of two marks it is likelier than another line with one; and a mark that fits well enough need
    # not have been heard best.
    hardly = {mark: math.log(0.3) - 2 * (mark == fitting) for mark in marks}
    heard = {(*words, mark): chance for mark, chance in hardly.items()} | {(*others, unfitting): math.log(0.4)}
    gap = max(ends) - sorted(ends)[-2]
    expected = fitting if gap > 0.25 * 2 else marks[ends.index(sorted(ends)[-2])]
    assert reader(backbone, weight=1e-3).choose(heard) == (*words, expected)
    assert reader(backbone, weight=1e-3).choose({(*words, fitting): -1.0, (*words, unfitting): -1.1}) == (
        *words,
        fitting,
    )
    assert reader(backbone).choose(heard) == (*others, unfitting)  # a backbone that isn't asked changes no mark
    # Nobody puts a mark where none was heard, and a mark alone is a word.
    assert reader(backbone, weight=1e-3).choose({words: -0.1, (*others, unfitting): -9.0}) == words
    assert reader(backbone, weight=1e-3).choose({(unfitting,): -0.1, others: -9.0}) == (unfitting,)


def test_with_a_beam_columns_are_exactly_the_typed_tokens(backbone: Backbone) -> None:
    adapter = perfect(backbone, [None, 7, 7, None, 7, 9, 9, 9, None, 4])
    hearing = BeamHearing(BeamHearing.Options(beam=8), adapter, backbone)
    columns, counts, lines = hearing(torch.randn(1, 10, 4), torch.tensor([10]))
    assert lines == [(7, 7, 9, 4)]
    assert counts.tolist() == [4]
    assert torch.equal(columns[0, :4], backbone.embed_text(torch.tensor([[7, 7, 9, 4]]))[0])
    assert not columns[0, 4:].any()


def test_the_hearing_keeps_its_contract() -> None:
    check_hearing("beam")
    check_hearing("beam", options={"hearings": 2, "weight": 0.5, "context": "so: "})


def test_only_an_adapter_that_hears_tokens_can_be_searched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MlpAdapter doesn't"):
        tiny_talker(tmp_path / "t", "hearing={name: beam}")
    with pytest.raises(ConfigError, match="needs an input adapter"):
        tiny_talker(tmp_path / "t", "hearing={name: beam}", "encoder=null", "input_adapter=null")


def test_training_goes_by_the_adapter_alone(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", *CTC, "hearing={name: beam}")
    assert "hearing" not in talker.model.parts()
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10)[None]
    features, frames = talker.model.encode_speech(wave, torch.tensor([8000]))
    adapter = talker.model.input_adapter
    assert adapter is not None
    assert torch.equal(talker.model.adapt_speech(features, frames).columns, adapter(features, frames).columns)
    (heard,) = talker.model.listen(wave, torch.tensor([8000]))
    assert heard.columns is not None
    assert torch.equal(heard.columns, talker.model.backbone.embed_text(torch.tensor([heard.line]))[0])


def ends(talker: Talker) -> list[int]:
    return [talker.model.layout.end_of_text_id]
