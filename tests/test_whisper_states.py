"""Whisper's decoder read at each moment, and the input adapter that starts from what it would write."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch.nn import functional as F
from whisper.model import Whisper

from anytalk.errors import AnytalkError
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone, SpeechEncoder
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_input_adapter, check_speech_encoder
from anytalk.plugins.testing.adapters import tiny_context
from anytalk_adapters.ctc_adapter import CtcAdapter
from anytalk_adapters.whisper_states import STATES_SCALE, DecoderStates, grouped
from anytalk_adapters.whisper_weights import PACKAGED_TINY_EN, load_whisper, writer_tokenizer

OPTIONS = {"model": PACKAGED_TINY_EN}


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return load_whisper(PACKAGED_TINY_EN)


@pytest.fixture(scope="module")
def prompt(whisper: Whisper) -> tuple[int, ...]:
    found: tuple[int, ...] = writer_tokenizer(whisper).sot_sequence_including_notimestamps
    return found


@pytest.fixture
def backbone() -> Backbone:
    part: Backbone = default_registry().build("backbone", PartRef(name="tiny"))
    return part


def encoder(**options: object) -> SpeechEncoder:
    built: SpeechEncoder = default_registry().build(
        "speech encoder", PartRef(name="whisper_states", options={**OPTIONS, **options})
    )
    return built


def test_the_contract_holds() -> None:
    check_speech_encoder("whisper_states", options=OPTIONS)


@torch.no_grad()
def test_a_window_over_everything_gives_whispers_own_first_token(whisper: Whisper, prompt: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 11, whisper.dims.n_audio_state)
    states = DecoderStates(whisper.decoder, prompt, group=3, window=20)(features)
    logits = whisper.decoder(torch.tensor([prompt, prompt]), features)[:, -1]
    found = states @ whisper.decoder.token_embedding.weight.T
    assert states.shape == (2, 4, whisper.dims.n_text_state)
    for group in range(4):
        torch.testing.assert_close(found[:, group], logits, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_a_group_hears_its_own_window_only(whisper: Whisper, prompt: tuple[int, ...]) -> None:
    # With a single token no position is shared, which would hear everything.
    states = DecoderStates(whisper.decoder, prompt[:1], group=2, window=2)
    torch.manual_seed(0)
    features = torch.randn(1, 12, whisper.dims.n_audio_state)
    other = features.clone()
    other[:, 6] += 1.0
    changed = (states(features) - states(other)).abs().amax(dim=-1)[0] > 1e-4
    # The middles are at 0.5, 2.5, 4.5 ..., and frame 6 is within 2 of three of them at most.
    assert changed.tolist() == [False, False, True, True, False, False]


def test_a_row_is_the_frames_and_the_state_at_its_own_length(whisper: Whisper, prompt: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    wave, lengths = torch.randn(2, 9600) * 0.1, torch.tensor([9600, 3900])
    part = encoder()
    with torch.no_grad():
        rows, counts = part(wave, lengths)
        frames, num_frames = default_registry().build("speech encoder", PartRef(name="whisper", options=OPTIONS))(
            wave, lengths
        )
    width = whisper.dims.n_audio_state
    assert counts.tolist() == [10, 5]
    assert part.frame_rate_hz == pytest.approx(50 / 3)
    for row, (count, frame_count) in enumerate(zip(counts.tolist(), num_frames.tolist(), strict=True)):
        own = frames[row : row + 1, :frame_count]
        torch.testing.assert_close(rows[row, :count, : 3 * width], grouped(own, 3)[0])
        with torch.no_grad():
            states = DecoderStates(whisper.decoder, prompt, 3, 7)(own)[0]
        torch.testing.assert_close(rows[row, :count, 3 * width :], STATES_SCALE * states, atol=1e-3, rtol=1e-3)
    assert not rows[1, 5:].any()


def test_half_precision_gives_nearly_the_same(whisper: Whisper) -> None:
    torch.manual_seed(0)
    wave, lengths = torch.randn(1, 9600) * 0.1, torch.tensor([9600])
    ref = PartRef(name="whisper_states", options=OPTIONS)
    half: SpeechEncoder = default_registry().build("speech encoder", ref, BuildContext(dtype="bfloat16"))
    with torch.no_grad():
        exact, rounded = encoder()(wave, lengths)[0], half(wave, lengths)[0]
    assert rounded.dtype == torch.float32
    assert float(F.cosine_similarity(exact, rounded, dim=-1).min()) > 0.98
    assert not torch.equal(exact, rounded)


def test_untrained_ctc_scores_tokens_as_whisper_does(whisper: Whisper, backbone: Backbone) -> None:
    adapter = CtcAdapter(
        CtcAdapter.Options(width=8, num_blocks=1, factor=1, states=PACKAGED_TINY_EN), 4 * 384, backbone
    ).eval()
    torch.manual_seed(0)
    features = torch.randn(1, 6, 4 * 384)
    hidden, _, places = adapter._listen(features, torch.tensor([6]))
    assert places.tolist() == [6]
    ids = torch.tensor(backbone.tokenizer.encode("abc"))
    with torch.no_grad():
        scores = hidden[0] @ adapter._keys(ids)[1].T
    states = features[0, :, -384:] / STATES_SCALE
    written = [writer_tokenizer(whisper).encode(letter)[0] for letter in "abc"]
    logits = states @ whisper.decoder.token_embedding.weight[written].T
    torch.testing.assert_close(scores, logits, atol=1e-3, rtol=1e-4)


def test_hidden_frames_hide_the_states_too(backbone: Backbone) -> None:
    options = CtcAdapter.Options(width=8, num_blocks=1, factor=1, states=PACKAGED_TINY_EN, frame_dropout=0.3)
    adapter = CtcAdapter(options, 4 * 384, backbone)
    torch.manual_seed(0)
    hidden = adapter._listen(torch.randn(1, 200, 4 * 384), torch.tensor([200]))[0]
    # Untrained, what is compared with keys is the state alone.
    is_hidden = (hidden[0] == 0).all(dim=-1).tolist()
    assert 0.2 < sum(is_hidden) / 200 < 0.4
    # A row is 0.06 s of sound, so stretches of 0.16 s are two rows.
    assert min(len(list(rows)) for hides, rows in groupby(is_hidden) if hides) <= 2


def test_ctc_with_states_keeps_the_contract(backbone: Backbone) -> None:
    options = {"width": 16, "num_blocks": 1, "factor": 1, "states": PACKAGED_TINY_EN}
    check_input_adapter("ctc", options=options, context=replace(tiny_context(), encoder_width=4 * 384))


def test_states_are_grouped_once_only() -> None:
    with pytest.raises(AnytalkError, match="factor 1"):
        default_registry().build(
            "input adapter", PartRef(name="ctc", options={"factor": 2, "states": PACKAGED_TINY_EN})
        )
