"""The reader of CTranslate2's model.bin, against files written here byte by byte and the installed real ones."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from anytalk.errors import WeightsError
from anytalk.plugins.disk_cache import entries
from anytalk_adapters import whisper_weights
from anytalk_adapters.ctranslate2_file import _float32, parse_ctranslate2, whisper_state_dict
from anytalk_adapters.whisper_weights import infer_dimensions, load_whisper, size_name

TINY = ModelDimensions(
    n_mels=80, n_audio_ctx=50, n_audio_state=128, n_audio_head=4, n_audio_layer=2,
    n_vocab=60, n_text_ctx=12, n_text_state=128, n_text_head=2, n_text_layer=1,
)  # fmt: skip
CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
Variables = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def text(value: str) -> bytes:
    raw = value.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def packed(variables: Variables, spec: str = "WhisperSpec", aliases: tuple[tuple[str, str], ...] = ()) -> bytes:
    content = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        content += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", CODES[array.dtype.name], array.nbytes) + array.tobytes()
    return content + struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)


def fused(state: dict[str, torch.Tensor], source: str, *names: str) -> Variables:
    width = state[f"{source}.query.weight"].shape[0]
    biases = [state.get(f"{source}.{n}.bias", torch.zeros(width)) for n in names]
    weights = [state[f"{source}.{n}.weight"] for n in names]
    return {"weight": torch.cat(weights).numpy(), "bias": torch.cat(biases).numpy()}


def as_ctranslate2(state: dict[str, torch.Tensor]) -> Variables:
    """What the converter of CTranslate2 makes of a Whisper."""
    out: Variables = {
        "encoder/num_heads": np.array(4, dtype=np.int16),
        "decoder/num_heads": np.array(2, dtype=np.int16),
        "encoder/position_encodings/encodings": state["encoder.positional_embedding"].numpy(),
        "decoder/position_encodings/encodings": state["decoder.positional_embedding"].numpy(),
        "decoder/embeddings/weight": state["decoder.token_embedding.weight"].numpy(),
    }

    def norm(target: str, source: str) -> None:
        out[f"{target}/gamma"], out[f"{target}/beta"] = (state[f"{source}.{k}"].numpy() for k in ("weight", "bias"))

    def linear(target: str, arrays: Variables) -> None:
        out.update({f"{target}/{leaf}": array for leaf, array in arrays.items()})

    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", {k: state[f"encoder.{conv}.{k}"].numpy() for k in ("weight", "bias")})
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    for side, index in (("encoder", 0), ("encoder", 1), ("decoder", 0)):
        target, source = f"{side}/layer_{index}", f"{side}.blocks.{index}"
        norm(f"{target}/self_attention/layer_norm", f"{source}.attn_ln")
        norm(f"{target}/ffn/layer_norm", f"{source}.mlp_ln")
        linear(f"{target}/self_attention/linear_0", fused(state, f"{source}.attn", "query", "key", "value"))
        linear(f"{target}/self_attention/linear_1", fused(state, f"{source}.attn", "out"))
        for number, leaf in ((0, "0"), (1, "2")):
            arrays = {k: state[f"{source}.mlp.{leaf}.{k}"].numpy() for k in ("weight", "bias")}
            linear(f"{target}/ffn/linear_{number}", arrays)
        if side == "decoder":
            norm(f"{target}/attention/layer_norm", f"{source}.cross_attn_ln")
            for number, names in enumerate((("query",), ("key", "value"), ("out",))):
                linear(f"{target}/attention/linear_{number}", fused(state, f"{source}.cross_attn", *names))
    return out


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = Whisper(TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_every_tensor_comes_back_and_fits_the_module(state: dict[str, torch.Tensor]) -> None:
    content = packed(as_ctranslate2(state), aliases=(("decoder/projection/weight", "decoder/embeddings/weight"),))
    file = parse_ctranslate2(content, "made.bin")
    read = whisper_state_dict(file, "made.bin")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert np.array_equal(file.variables["decoder/projection/weight"], state["decoder.token_embedding.weight"].numpy())
    assert infer_dimensions(read, 4, 2) == TINY


@pytest.mark.parametrize(
    ("width", "blocks", "tokens", "name"),
    [
        (384, 4, 51864, "tiny.en"),
        (512, 6, 51865, "base"),
        (1280, 32, 51866, "large"),
        (1280, 4, 51866, "turbo"),
        (1280, 2, 51866, ""),  # distilled
        (128, 1, 60, ""),
    ],
)
def test_a_published_size_has_a_name(width: int, blocks: int, tokens: int, name: str) -> None:
    dims = replace(TINY, n_text_state=width, n_text_layer=blocks, n_vocab=tokens)
    assert size_name(dims) == name


def test_int8_rows_are_divided_by_their_scale() -> None:
    stored = np.array([[127, -64], [10, 0]], dtype=np.int8)
    variables: Variables = {
        "encoder/conv1/weight": stored,
        "encoder/conv1/weight_scale": np.array([254.0, 5.0], dtype=np.float32),
    }
    file = parse_ctranslate2(packed(variables), "made.bin")
    expected = torch.tensor([[0.5, -64 / 254], [2.0, 0.0]])
    assert torch.allclose(_float32(file.variables, "encoder/conv1/weight"), expected)


def test_a_quantised_file_is_near_its_original(state: dict[str, torch.Tensor]) -> None:
    variables = as_ctranslate2(state)
    for name in [n for n in variables if n.endswith("weight")]:
        rows = variables[name].reshape(len(variables[name]), -1)
        scale = (127.0 / np.abs(rows).max(1)).astype(np.float32)
        variables[f"{name}_scale"] = scale
        variables[name] = np.round(rows * scale[:, None]).astype(np.int8).reshape(variables[name].shape)
    read = whisper_state_dict(parse_ctranslate2(packed(variables), "made.bin"), "made.bin")
    assert max(float((read[name] - state[name]).abs().max()) for name in state) < 0.025
    assert not torch.equal(read["encoder.conv1.weight"], state["encoder.conv1.weight"])


@pytest.mark.parametrize("keep", [0, 3, 15, 40, 200, -3])
def test_a_truncated_file_says_so(state: dict[str, torch.Tensor], keep: int) -> None:
    with pytest.raises(WeightsError, match=r"'cut.bin' is not a complete CTranslate2 model.*ends after"):
        parse_ctranslate2(packed(as_ctranslate2(state))[:keep], "cut.bin")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"PK\x03\x04" + bytes(100), "version"),
        (struct.pack("<IH", 6, 3) + b"abc", "no text"),
        (packed({"x": np.zeros(2, np.float32)}).replace(b"\x00\x08\x00\x00\x00", b"\x09\x08\x00\x00\x00"), "dtype 9"),
        (packed({"x": np.zeros(2, np.float32)}).replace(b"\x01\x02\x00", b"\x01\x03\x00"), "shape"),
        (packed({}, aliases=(("a", "b"),)), "alias 'a'"),
    ],
)
def test_garbage_is_named(content: bytes, complaint: str) -> None:
    with pytest.raises(WeightsError, match=complaint):
        parse_ctranslate2(content, "garbage.bin")


def test_another_model_is_refused() -> None:
    with pytest.raises(WeightsError, match="TransformerSpec"):
        whisper_state_dict(parse_ctranslate2(packed({}, spec="TransformerSpec"), "t.bin"), "t.bin")


def test_a_missing_tensor_is_named(state: dict[str, torch.Tensor]) -> None:
    variables = as_ctranslate2(state)
    del variables["encoder/conv2/bias"]
    with pytest.raises(WeightsError, match="encoder/conv2/bias"):
        whisper_state_dict(parse_ctranslate2(packed(variables), "t.bin"), "t.bin")


def test_folder_file_pieces_and_pt_give_the_same_model(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = packed(as_ctranslate2(state))
    (tmp_path / "model.bin").write_bytes(content)
    torch.save({"dims": vars(TINY), "model_state_dict": state}, tmp_path / "tiny.pt")
    before = torch.get_rng_state()
    for spec in (str(tmp_path), str(tmp_path / "model.bin"), str(tmp_path / "tiny.pt")):
        model = load_whisper(spec)
        assert model.dims == TINY
        assert not model.training
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert load_whisper("tiny.pt", tmp_path).dims == TINY
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_is_converted_once(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").write_bytes(packed(as_ctranslate2(state)))
    first = load_whisper(str(tmp_path))
    monkeypatch.setattr(whisper_weights, "parse_ctranslate2", None)
    second = load_whisper(str(tmp_path))
    assert second.dims == first.dims
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in second.state_dict().items())
    mel = torch.randn(1, 80, 100)
    assert torch.equal(first.eval()(mel, torch.tensor([[3, 4]])), second.eval()(mel, torch.tensor([[3, 4]])))
    assert [entry.made_from for entry in entries()] == [str(tmp_path)]


def test_half_precision_pt_becomes_float32(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in state.items()}
    torch.save({"dims": vars(TINY), "model_state_dict": halves}, tmp_path / "half.pt")
    assert {p.dtype for p in load_whisper(str(tmp_path / "half.pt")).parameters()} == {torch.float32}


def test_a_local_path_wins_over_a_whisper_name(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.bin").write_bytes(packed(as_ctranslate2(state)))
    assert load_whisper("small", tmp_path).dims == TINY
    monkeypatch.chdir(tmp_path)
    assert load_whisper("small").dims == TINY


def test_an_unreachable_whisper_name_says_what_it_would_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(WeightsError, match=r"'small' is not in the cache.*no network") as caught:
        load_whisper("small")
    assert "small.pt" in caught.value.hint
    assert "CTranslate2" in caught.value.hint


@pytest.mark.parametrize("name", ["smal", "openai/whisper-small"])
def test_a_hub_id_is_no_whisper_name(name: str) -> None:
    with pytest.raises(WeightsError, match="neither a file nor one of Whisper's names") as caught:
        load_whisper(name)
    assert "'hf'" in caught.value.hint


def test_files_that_are_no_whisper_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"dims": vars(TINY), "model_state_dict": {}}, tmp_path / "empty.pt")
    torch.save({"dims": {"depth": 3}, "model_state_dict": {}}, tmp_path / "dims.pt")
    (tmp_path / "folder").mkdir()
    for name, complaint in (
        ("text.pt", "can't be read"),
        ("other.pt", "no 'dims'"),
        ("empty.pt", "doesn't fit"),
        ("dims.pt", "unknown dimensions"),
        ("folder", "no model.bin"),
    ):
        with pytest.raises(WeightsError, match=complaint):
            load_whisper(str(tmp_path / name))
    assert not entries()
