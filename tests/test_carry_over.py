"""A mouth that changes its codec: tables of codes are translated, the rest is copied."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from helpers import tiny_talker

from anytalk.errors import TalkerError
from anytalk.model.talker import load_talker, save_talker

SCRIPT = Path(__file__).resolve().parent.parent / "examples/talkers/smollm2-135m-assistant/carry_over.py"
STREAMS, CODES = 3, 16
ROWS = 40


@pytest.fixture(scope="module")
def carry() -> Any:
    spec = importlib.util.spec_from_file_location("carry_over", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shards(folder: Path, shift: int) -> Path:
    """The same rows in another codec's codes, each `shift` further; the last row is one frame longer in one of them."""
    random = torch.Generator().manual_seed(0)
    (folder / "answers").mkdir(parents=True)
    rows = [torch.randint(CODES, (STREAMS, 12), generator=random) for _ in range(ROWS)]
    codes = [((row + shift) % CODES).tolist() for row in rows]
    codes[-1] = [stream + [0] * shift for stream in codes[-1]]
    table = arrow.table({"id": [str(i) for i in range(ROWS)], "answer_codes": codes})
    parquet.write_table(table, folder / "answers" / "00000.parquet")
    return folder


def test_rows_of_new_codes_are_those_of_the_old_codes_in_their_place(carry: Any, tmp_path: Path) -> None:
    old, new = tiny_talker(tmp_path / "old"), tiny_talker(tmp_path / "new", "seed=7")
    save_talker(old, tmp_path / "old", trained=carry.PARTS)
    carry.carry_over(tmp_path / "old", tmp_path / "new", shards(tmp_path / "a", 0), shards(tmp_path / "b", 1))
    carried = load_talker(tmp_path / "new").model.state_dict()
    before, own = old.model.state_dict(), new.model.state_dict()
    # Code c is called c + 1 by the new codec.
    expected = before["audio_embeddings.weight"].roll(1, dims=1)
    torch.testing.assert_close(carried["audio_embeddings.weight"], expected, atol=2e-3, rtol=2e-2)
    heads = before["heads.linear.weight"].view(STREAMS, -1, expected.shape[-1])
    found = carried["heads.linear.weight"].view_as(heads)
    torch.testing.assert_close(found[:, :CODES], heads[:, :CODES].roll(1, dims=1), atol=2e-3, rtol=2e-2)
    assert torch.equal(found[:, CODES:], heads[:, CODES:])  # special tokens stay what they are
    copied = [name for name in before if name.startswith("output_adapter.")]
    assert copied
    assert all(torch.equal(carried[name], before[name]) for name in copied)
    ears = [name for name in own if name.startswith("input_adapter.")]
    assert all(torch.equal(carried[name], own[name]) for name in ears)


def test_rows_of_other_lengths_are_left_out_and_none_in_common_is_an_error(carry: Any, tmp_path: Path) -> None:
    a, b = shards(tmp_path / "a", 0), shards(tmp_path / "b", 1)
    counts = carry.meetings(a, b, STREAMS, CODES)
    assert counts.sum() == STREAMS * 12 * (ROWS - 1)
    assert carry.likeliest(counts) == "100%, 100%, 100%"
    (b / "answers").rename(b / "others")
    with pytest.raises(TalkerError, match="no row"):
        carry.meetings(a, b, STREAMS, CODES)


def test_a_code_that_was_never_seen_becomes_the_mean_of_all(carry: Any) -> None:
    tables = torch.tensor([[[1.0], [3.0], [9.0]]])  # two codes and a special
    chances = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    assert carry.translated(tables, chances).tolist() == [[[1.0], [2.0], [9.0]]]
    assert json.dumps(tables.tolist()) == "[[[1.0], [3.0], [9.0]]]"
