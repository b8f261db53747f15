"""Input adapters, output adapters and heads: the arithmetic by hand, then the contract checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import AudioTables, BackboneStates, Cache, HeardBatch, InputAdapter, OutputAdapter
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing.adapters import check_heads, check_input_adapter, check_output_adapter, tiny_context
from anytalk_adapters.heads import ParallelHeads, SharedHeads
from anytalk_adapters.input_adapters import (
    MlpAdapter,
    StackAdapter,
    SwigluAdapter,
    stack_frames,
    swiglu_width,
    text_embedding_rms,
    zero_padding,
)
from anytalk_adapters.output_adapters import BlocksAdapter, NoAdapter
from anytalk_adapters.talker_adapter import TalkerAdapter


@pytest.fixture(scope="module")
def context() -> BuildContext:
    return tiny_context()


def build(kind: str, name: str, context: BuildContext, **options: Any) -> Any:
    return default_registry().build(kind, PartRef(name=name, options=options), context).eval()


# --- every registered part keeps its contract ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {}),
        ("mlp", {"num_layers": 1}),
        ("mlp", {"output_norm": True, "hidden_width": 24}),
        ("swiglu", {}),
        ("swiglu", {"output_norm": True}),
        ("stack", {}),
        ("stack", {"factor": 1, "output_norm": False}),
        ("stack", {"factor": 50}),
        ("ctc", {"num_blocks": 1, "width": 16}),
        ("letters", {"num_blocks": 1, "width": 16}),
    ],
)
def test_input_adapters_keep_the_contract(name: str, options: dict[str, Any], context: BuildContext) -> None:
    check_input_adapter(name, options=options, context=context)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("blocks", {"num_blocks": 2}),
        ("blocks", {"num_blocks": 1, "init": "copy"}),
        ("talker", {"width": 64, "letter_width": 64}),
        ("talker", {"width": 64, "letter_width": 64, "reads_states": True}),
    ],
)
def test_output_adapters_keep_the_contract(name: str, options: dict[str, Any], context: BuildContext) -> None:
    check_output_adapter(name, options=options, context=context)


@pytest.mark.parametrize(("name", "options"), [("parallel", {}), ("shared", {}), ("shared", {"tied": False})])
def test_heads_keep_the_contract(name: str, options: dict[str, Any], context: BuildContext) -> None:
    check_heads(name, options=options, context=context)


def test_every_registered_part_is_checked_above() -> None:
    registry = default_registry()
    ours = {
        kind: {n for n, offers in registry.components(kind).items() if offers[0].distribution == "anytalk"}
        for kind in ("input adapter", "output adapter", "heads")
    }
    assert ours == {
        "input adapter": {"mlp", "swiglu", "stack", "ctc", "letters"},
        "output adapter": {"blocks", "none", "talker"},
        "heads": {"parallel", "shared"},
    }


# --- input adapters ------------------------------------------------------------------------------------------


def test_zero_padding_removes_even_nan() -> None:
    features = torch.ones(2, 3, 1)
    features[1, 1:] = float("nan")
    assert zero_padding(features, torch.tensor([3, 1]))[:, :, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_stack_frames_by_hand() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert stack_frames(features, 2).tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]]]


@pytest.mark.parametrize(("factor", "frames", "columns"), [(5, 1, 1), (5, 5, 1), (5, 6, 2), (5, 1500, 300), (1, 7, 7)])
def test_stack_output_length(factor: int, frames: int, columns: int, context: BuildContext) -> None:
    assert build("input adapter", "stack", context, factor=factor).output_length(frames) == columns


def test_mlp_is_linear_gelu_linear(context: BuildContext) -> None:
    adapter = build("input adapter", "mlp", context)
    assert isinstance(adapter, MlpAdapter)
    x = torch.randn(1, 4, context.need_encoder_width())
    state = adapter.state_dict()
    width = context.need_backbone().width
    assert state["layers.0.weight"].shape == (4 * width, context.need_encoder_width())
    hidden = F.gelu(x @ state["layers.0.weight"].T + state["layers.0.bias"])
    expected = hidden @ state["layers.1.weight"].T + state["layers.1.bias"]
    torch.testing.assert_close(adapter(x, torch.tensor([4]))[0], expected)


def test_one_layer_mlp_has_the_names_of_one_linear(context: BuildContext) -> None:
    adapter = build("input adapter", "mlp", context, num_layers=1)
    assert set(adapter.state_dict()) == {"layers.0.weight", "layers.0.bias"}


def test_swiglu_is_gated_and_without_bias(context: BuildContext) -> None:
    adapter = build("input adapter", "swiglu", context, hidden_width=12)
    assert isinstance(adapter, SwigluAdapter)
    assert set(adapter.state_dict()) == {"fc_1.weight", "fc_2.weight", "proj.weight"}
    x = torch.randn(1, 4, context.need_encoder_width())
    one, two, out = (p.weight for p in (adapter.fc_1, adapter.fc_2, adapter.proj))
    expected = (F.silu(x @ one.T) * (x @ two.T)) @ out.T
    torch.testing.assert_close(adapter(x, torch.tensor([4]))[0], expected)


def test_swiglu_width_is_the_released_one_at_qwen2() -> None:
    assert swiglu_width(896) == 4864


@pytest.mark.parametrize("name", ["mlp", "swiglu", "stack"])
def test_output_norm_gives_speech_the_size_of_text(name: str, context: BuildContext) -> None:
    adapter = build("input adapter", name, context, output_norm=True)
    features = 37.0 * torch.randn(1, 20, context.need_encoder_width())
    columns = adapter(features, torch.tensor([20])).columns
    rms = columns.square().mean(-1).sqrt()
    wanted = text_embedding_rms(context.need_backbone())
    torch.testing.assert_close(rms, torch.full_like(rms, wanted), rtol=1e-3, atol=0.0)
    assert adapter.norm.gain.requires_grad


def test_text_embedding_rms_is_that_of_the_table(context: BuildContext) -> None:
    backbone = context.need_backbone()
    table = backbone.embed_text(torch.arange(min(backbone.text_vocab_size, 1000))[None])[0].detach()
    expected = torch.stack([row.pow(2).mean().sqrt() for row in table]).mean()
    assert text_embedding_rms(backbone) == pytest.approx(float(expected), rel=1e-5)


def test_features_of_a_smaller_dtype_are_taken(context: BuildContext) -> None:
    for name in ("mlp", "swiglu", "stack"):
        features = torch.randn(1, 6, context.need_encoder_width(), dtype=torch.bfloat16)
        columns = build("input adapter", name, context)(features, torch.tensor([6])).columns
        assert columns.dtype == torch.float32


def test_an_input_adapter_without_an_encoder_is_a_config_error() -> None:
    backbone = default_registry().build("backbone", PartRef(name="tiny"))
    with pytest.raises(ConfigError, match="speech encoder"):
        StackAdapter.build(StackAdapter.Options(), BuildContext(backbone=backbone))


# --- output adapters -----------------------------------------------------------------------------------------


def test_blocks_start_before_the_final_norm(context: BuildContext) -> None:
    adapter = build("output adapter", "blocks", context, num_blocks=1)
    assert isinstance(adapter, BlocksAdapter)
    pre, other = torch.randn(2, 1, 5, context.need_backbone().width)
    torch.testing.assert_close(adapter(BackboneStates(pre, other)), adapter.blocks(pre))
    torch.testing.assert_close(adapter(BackboneStates(pre, pre)), adapter(BackboneStates(pre, other)))


def test_copied_blocks_of_all_the_backbone_continue_like_it(context: BuildContext) -> None:
    backbone = context.need_backbone()
    embeds = torch.randn(1, 5, backbone.width)
    for num_blocks in (1, 2):
        copied = build("output adapter", "blocks", context, num_blocks=num_blocks, init="copy")
        fresh = build("output adapter", "blocks", context, num_blocks=num_blocks)
        assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in backbone.parameters()}
        assert sum(p.numel() for p in copied.parameters()) == sum(p.numel() for p in fresh.parameters())
    # All of tiny's two blocks, copied, do to embeddings what the backbone does to them.
    torch.testing.assert_close(copied(BackboneStates(embeds, embeds)), backbone(embeds).normed)


def test_none_is_what_the_text_head_reads(context: BuildContext) -> None:
    adapter = build("output adapter", "none", context)
    assert isinstance(adapter, NoAdapter)
    pre, normed = torch.randn(2, 1, 5, 8)
    assert adapter(BackboneStates(pre, normed)) is normed
    check_output_adapter(adapter, context=context)


# --- heads ---------------------------------------------------------------------------------------------------


def tables_of(context: BuildContext, codes: int = 16) -> AudioTables:
    streams, rows, width = context.num_streams, context.stream_vocab_size, context.need_audio_width()
    return AudioTables(torch.randn(streams, codes, width), torch.randn(streams, rows - codes, width))


def test_parallel_heads_are_slices_of_one_matrix(context: BuildContext) -> None:
    heads = build("heads", "parallel", context)
    assert isinstance(heads, ParallelHeads)
    hidden = torch.randn(2, 5, context.need_backbone().width)
    logits = heads(hidden, tables_of(context))
    rows = context.stream_vocab_size
    for k in range(context.num_streams):
        expected = hidden @ heads.linear.weight[k * rows : (k + 1) * rows].T
        torch.testing.assert_close(logits[:, k], expected)


def test_shared_heads_read_with_the_embedding_rows_codes_first(context: BuildContext) -> None:
    heads = build("heads", "shared", context)
    assert isinstance(heads, SharedHeads)
    assert not list(heads.parameters())
    tables = tables_of(context)
    hidden = torch.randn(2, 5, context.need_backbone().width)
    logits = heads(hidden, tables)
    for k in range(context.num_streams):
        rows = torch.cat([tables.codes[k], tables.specials[k]])
        torch.testing.assert_close(logits[:, k], hidden @ rows.T)


def test_untied_shared_heads_ignore_the_tables(context: BuildContext) -> None:
    heads = build("heads", "shared", context, tied=False)
    hidden = torch.randn(1, 5, context.need_backbone().width)
    assert torch.equal(heads(hidden, tables_of(context)), heads(hidden, tables_of(context)))
    assert heads.rows.shape == (context.num_streams, context.stream_vocab_size, hidden.shape[-1])


@pytest.mark.parametrize("name", ["parallel", "shared"])
def test_heads_without_a_grid_are_a_config_error(name: str, context: BuildContext) -> None:
    with pytest.raises(ConfigError, match="num_streams=0"):
        build("heads", name, BuildContext(backbone=context.backbone))


# --- the checks themselves can fail --------------------------------------------------------------------------


class Leaky(MlpAdapter):
    """Lets frames beyond a row's length into its columns."""

    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        whole, _, _ = super().forward(features, torch.full_like(lengths, features.shape[1]))
        return HeardBatch(whole + features.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True), lengths)


class Shrinking(MlpAdapter):
    """Promises fewer columns for more frames."""

    def output_length(self, num_frames: int) -> int:
        return max(1, 60 - num_frames)


@pytest.mark.parametrize(("kind", "message"), [(Leaky, "beyond a row's length"), (Shrinking, "must not shrink")])
def test_check_input_adapter_catches(kind: type[MlpAdapter], message: str, context: BuildContext) -> None:
    widths = [context.need_encoder_width(), context.need_backbone().width]
    part: InputAdapter = kind(widths, nn.Identity())
    with pytest.raises(AssertionError, match=message):
        check_input_adapter(part, context=context)


class LooksAhead(NoAdapter):
    """Adds the mean over all steps."""

    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        return states.normed + states.normed.mean(dim=1, keepdim=True)


class Forgets(NoAdapter):
    """Sums all steps so far, but has no cache."""

    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        return states.normed.cumsum(dim=1)


def test_check_output_adapter_catches_a_false_promise_to_fit(
    context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TalkerAdapter, "fits_any_backbone", True)
    options = {"width": 64, "letter_width": 64, "reads_states": True}
    with pytest.raises(AssertionError, match=r"width changes state_in.weight"):
        check_output_adapter("talker", options=options, context=context)


@pytest.mark.parametrize(("part", "message"), [(LooksAhead(32), "not causal"), (Forgets(32), "with a cache differ")])
def test_check_output_adapter_catches(part: OutputAdapter, message: str, context: BuildContext) -> None:
    with pytest.raises(AssertionError, match=message):
        check_output_adapter(part, context=context)


class Sideways(ParallelHeads):
    """Gives (B,T,K,V)."""

    def forward(self, hidden: Tensor, tables: AudioTables) -> Tensor:
        return super().forward(hidden, tables).transpose(1, 2)


def test_check_heads_catches_a_wrong_layout(context: BuildContext) -> None:
    part = Sideways(context.need_backbone().width, context.num_streams, context.stream_vocab_size)
    with pytest.raises(AssertionError, match=r"expected \(2, 3, 7, 20\)"):
        check_heads(part, context=context)
