"""The arithmetic of the talking model: merging, speech spans, speakers, special tokens, pads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NEW_PARTS, stage, tiny_talker, train, training_rows

from anytalk.grid.tokens import StreamLayout
from anytalk.model.talk_model import AudioEmbeddings, SpecialTokens, TalkModel
from anytalk.plugins.contracts import BackboneAdapter, GridBatch, OutputAdapter, SpeechDecoder

# 2 audio streams of 2 codes, 4 text ids, width 3. Text specials begin at 4: eot 4, pad_t 5. Audio specials begin at
# 2: eoa 2, pad_a 3, input_a 4.
LAYOUT = StreamLayout(num_audio_streams=2, codebook_size=2, text_vocab_size=4, end_of_text_id=0)
TEXT = torch.arange(12.0).view(4, 3)
CODES = torch.tensor([[[100.0, 0, 0], [200, 0, 0]], [[0, 100, 0], [0, 200, 0]]])


class TableBackbone(torch.nn.Module):
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        return TEXT[ids]


class Through(BackboneAdapter):
    """Gives the states back."""

    @property
    def width(self) -> int:
        return 3

    @classmethod
    def build(cls, options: Any, context: Any) -> Any:
        return cls()

    def forward(self, states: Any, cache: Any = None) -> torch.Tensor:
        normed: torch.Tensor = states.normed
        return normed

    def new_cache(self, batch_size: int, max_steps: int) -> None:
        return None


class Beside(SpeechDecoder):
    """Gives its own audio back."""

    @property
    def width(self) -> int:
        return 3

    @classmethod
    def build(cls, options: Any, context: Any) -> Any:
        return cls()

    def forward(self, audio: torch.Tensor, text: Any, states: Any = None, cache: Any = None) -> torch.Tensor:
        return audio

    def new_cache(self, batch_size: int, max_steps: int) -> None:
        return None


def small_model(merge: str, adapter: OutputAdapter | None = None, speakers: int = 0) -> TalkModel:
    special, audio = SpecialTokens(LAYOUT, 3, 1.0, 3, 1.0), AudioEmbeddings(LAYOUT, 3, 1.0)
    with torch.no_grad():
        audio.weight.copy_(CODES)
        for slot in range(5):
            special.text[slot] = torch.tensor([0.0, 0.0, 10.0 * (slot + 1)])
        for stream in range(2):
            for slot in range(4):
                special.audio[stream, slot] = torch.tensor([0.0, 0.0, 1000.0 * (stream + 1) + slot])
    parts: dict[str, Any] = {"backbone": TableBackbone(), "output_adapter": adapter or Through(), "heads": None}
    speaker = torch.nn.Embedding(speakers, 3, _weight=torch.tensor([[0.5, 0, 0], [0, 0.5, 0]])) if speakers else None
    return TalkModel(
        layout=LAYOUT,
        merge=merge,
        encoder=None,
        input_adapter=None,
        audio_embeddings=audio,
        special_tokens=special,
        speaker=speaker,
        **parts,
    )


# Two rows, three streams (audio, audio, text), four columns.
TOKENS = torch.tensor(
    [
        [[3, 0, 1, 2], [3, 1, 3, 4], [1, 2, 5, 4]],
        [[3, 3, 3, 3], [3, 3, 3, 3], [0, 3, 5, 1]],
    ]
)


def test_sum_merges_text_and_audio_with_pads_of_zero() -> None:
    embeds, audio = small_model("sum").embed(GridBatch(TOKENS))
    expected = torch.tensor(
        [
            # text 1 | text 2, codes 0 and 1 | pad_t, code 1, pad_a | eot, eoa of stream 0, input_a of stream 1
            [[3.0, 4, 5], [106, 207, 8], [200, 0, 0], [0, 0, 10 + 1000 + 2002]],
            [[0, 1, 2], [9, 10, 11], [0, 0, 0], [3, 4, 5]],
        ]
    )
    assert torch.equal(embeds, expected)
    assert audio is None


def test_mean_averages_all_rows_and_pads_count() -> None:
    embeds, _ = small_model("mean").embed(GridBatch(TOKENS))
    pads = 1001.0 + 2001.0
    expected = torch.tensor(
        [
            [[3.0, 4, 5 + pads], [106, 207, 8], [200, 0, 20 + 2001], [0, 0, 10 + 1000 + 2002]],
            [[0, 1, 2 + pads], [9, 10, 11 + pads], [0, 0, 20 + pads], [3, 4, 5 + pads]],
        ]
    )
    assert torch.equal(embeds, expected / 3)


@pytest.mark.parametrize(("merge", "text_pad"), [("sum", 0.0), ("mean", 20.0)])
def test_speech_is_laid_into_its_span_and_replaces_the_audio_rows(merge: str, text_pad: float) -> None:
    model, speech = small_model(merge), torch.tensor([[7.0, 7, 7], [8, 8, 8]])
    tokens = TOKENS.clone()
    tokens[1, 2, 1:3] = LAYOUT.pad_t
    plain, _ = model.embed(GridBatch(tokens))
    embeds, _ = model.embed(GridBatch(tokens, [[], [(1, speech)]]))
    assert torch.equal(embeds[0], plain[0])
    assert torch.equal(embeds[1, [0, 3]], plain[1, [0, 3]])
    text = torch.tensor([0.0, 0.0, text_pad])
    # Under mean the original lays the speech into all K audio rows: (K speech + pad_t) / (K + 1).
    expected = speech if merge == "sum" else (2 * speech + text) / 3
    assert torch.allclose(embeds[1, 1:3], expected)


def test_speaker_embedding_stands_on_answer_columns_only() -> None:
    model = small_model("sum", speakers=2)
    mask = torch.tensor([[False, False, True, True], [False, True, False, False]])
    plain, _ = model.embed(GridBatch(TOKENS))
    embeds, _ = model.embed(GridBatch(TOKENS, (), torch.tensor([1, 0]), mask))
    added = torch.zeros(2, 4, 3)
    added[0, 2:, 1] = 0.5
    added[1, 1, 0] = 0.5
    assert torch.equal(embeds - plain, added)


def test_feedback_to_the_adapter_keeps_audio_away_from_the_backbone() -> None:
    model = small_model("sum", Beside(), speakers=2)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 1] = True
    embeds, audio = model.embed(GridBatch(TOKENS, (), torch.tensor([0, 0]), mask))
    assert torch.equal(embeds[0, 1], TEXT[2])
    assert audio is not None
    assert torch.equal(audio[0, 1], torch.tensor([100.5, 200.0, 0.0]))


@pytest.mark.parametrize("end_of_text", ["eos", "eot"])
def test_eot_widens_the_text_head_by_the_special_slots(end_of_text: str, tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", f"grid.end_of_text={end_of_text}")
    normed = torch.randn(1, 2, 32)
    logits = talker.model.text_logits(normed)
    assert torch.equal(logits[..., :259], talker.model.backbone.text_logits(normed))
    assert logits.shape[-1] == (259 if end_of_text == "eos" else 264)


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_pads_learn_under_mean_only(merge: str, tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", f"grid.merge={merge}")
    rows, layout, tables = training_rows(tmp_path, 2), talker.model.layout, talker.model.special_tokens
    before = tables.audio.detach().clone()
    text_before = tables.text.detach().clone()
    train(talker, stage(train=NEW_PARTS, weight_decay=0.1, tasks={"A1A2": 1}), rows)
    pad, other = layout.pad_a - layout.codebook_size, layout.answer_a - layout.codebook_size
    learns = merge == "mean"
    assert torch.equal(before[:, pad], tables.audio[:, pad]) is not learns
    assert torch.equal(text_before[1], tables.text[1]) is not learns
    assert not torch.equal(before[:, other], tables.audio[:, other])
    tokens = torch.full((1, layout.num_streams, 1), layout.pad_a)
    tokens[0, layout.text_row] = layout.pad_t
    embeds, _ = talker.model.embed(GridBatch(tokens))
    assert bool((embeds == 0).all()) is not learns
