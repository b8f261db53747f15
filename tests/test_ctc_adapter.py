"""The `ctc` input adapter: what is heard stands where it would have been typed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import stage, tiny_talker, train, training_rows
from torch.nn import functional as F

from anytalk.data.batches import Batch
from anytalk.decode.session import AnswerDone, Session, embed_speech
from anytalk.errors import ConfigError
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone
from anytalk.plugins.registry import default_registry
from anytalk.train.elastic import take_out
from anytalk_adapters.ctc_adapter import CtcAdapter, Speller

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
    columns, counts = adapter(torch.randn(1, 10, 4), torch.tensor([10]))
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
    columns, counts = perfect(backbone, [None, None, None])(torch.randn(1, 3, 4), torch.tensor([3]))
    assert counts.tolist() == [1]
    assert torch.isfinite(columns).all()


def test_align_is_the_likelihood_of_the_transcript(backbone: Backbone) -> None:
    adapter = perfect(backbone, [7, None, 9])
    good, bad = (
        adapter.align(torch.randn(1, 3, 4), torch.tensor([3]), [torch.tensor(ids)]).item() for ids in ([7, 9], [9, 7])
    )
    assert good < 1e-3 < 50 < bad


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
        reads=torch.zeros(2, dtype=torch.bool),
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
    talker = tiny_talker(tmp_path / "t", *CTC)
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    heard = embed_speech(talker, wave).shape[0]
    logits = talker.model.text_logits
    # It never wants to end.
    monkeypatch.setattr(
        talker.model, "text_logits", lambda h: logits(h).index_fill(-1, torch.tensor(ends(talker)), -1e4)
    )
    done = next(event for event in Session(talker).ask(wave=wave, task="A1T1") if isinstance(event, AnswerDone))
    assert (done.finish_reason, done.num_columns) == ("length", 2 * heard + 8)


def ends(talker: Talker) -> list[int]:
    return [talker.model.layout.end_of_text_id]
