"""The shared prefix changes nothing but the time."""

import pytest
import torch
from helpers import tiny_talker

from anytalk.plugins.contracts import GridBatch
from anytalk.train.freeze import apply_freeze
from anytalk.train.prefix import run_backbone, shared_prefix


def test_states_and_gradients_equal_the_plain_run(tmp_path) -> None:
    model = tiny_talker(tmp_path / "talker").model
    apply_freeze(model, ["audio_embeddings", "output_adapter", "heads"])
    layout = model.layout
    tokens = torch.full((3, layout.num_streams, 30), layout.pad_a)
    tokens[:, layout.text_row] = torch.randint(0, 200, (3, 30))
    tokens[:, layout.text_row, :20] = tokens[:1, layout.text_row, :20]
    tokens[:, : layout.text_row, 22:] = torch.randint(0, layout.codebook_size, (3, layout.num_audio_streams, 8))
    assert shared_prefix(model, tokens) == 20

    gradients = []
    for run in (lambda embeds: model.backbone(embeds), lambda embeds: run_backbone(model, tokens, embeds)):
        embeds, _ = model.embed(GridBatch(tokens))
        states = run(embeds)
        states.normed[:, 20:].pow(2).sum().backward()
        gradients.append((states.pre_norm.detach(), model.audio_embeddings.weight.grad.clone()))
        model.audio_embeddings.weight.grad = None
    (plain, plain_grad), (shared, shared_grad) = gradients
    assert torch.allclose(plain, shared, atol=1e-5)
    assert plain_grad.abs().max() > 0
    assert torch.allclose(plain_grad, shared_grad, atol=1e-5)


@pytest.mark.parametrize("change", ["train the backbone", "merge by mean", "a special token", "an audio token"])
def test_nothing_that_trains_is_taken_for_frozen(tmp_path, change: str) -> None:
    model = tiny_talker(tmp_path / "talker").model
    apply_freeze(model, ["backbone"] if change == "train the backbone" else ["special_tokens"])
    layout = model.layout
    tokens = torch.full((2, layout.num_streams, 12), layout.pad_a)
    tokens[:, layout.text_row] = 7
    expected = 0
    if change == "merge by mean":
        model.merge = "mean"
    elif change == "a special token":
        tokens[:, layout.text_row, 5] = layout.answer_t
        expected = 5
    elif change == "an audio token":
        tokens[:, 0, 9] = 1
        expected = 9
    assert shared_prefix(model, tokens) == expected
