"""Cutting answers out of grids, against tables typed by hand."""

from types import SimpleNamespace
from typing import Any

import torch

from anytalk.model.windows import answer_windows

LAYOUT: Any = SimpleNamespace(text_row=1, pad_a=90, pad_t=99)


def test_rows_are_shifted_by_their_own_prompts() -> None:
    tokens = torch.tensor(
        [
            [[90, 91, 1, 2, 3, 90], [10, 11, 12, 13, 99, 99]],  # prompt of 2 columns, answer of 3, one of padding
            [[90, 90, 90, 90, 90, 90], [20, 21, 22, 23, 24, 25]],  # speaks nothing
            [[90, 90, 91, 5, 6, 90], [30, 31, 32, 33, 99, 99]],  # prompt of 3, answer of 2
        ]
    )
    answers = torch.tensor([[0, 0, 1, 1, 1, 0], [0] * 6, [0, 0, 0, 1, 1, 0]], dtype=torch.bool)
    mask = torch.stack([answers, answers], dim=1)
    cut = answer_windows(LAYOUT, tokens, mask, answers)
    assert cut.rows.tolist() == [0, 2]
    assert cut.columns.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]
    assert cut.tokens.tolist() == [[[91, 1, 2, 3], [99, 12, 13, 99]], [[91, 5, 6, 90], [99, 33, 99, 99]]]
    assert cut.loss_mask[:, 0].tolist() == [[False, True, True, True], [False, True, True, False]]
    assert cut.gather(torch.arange(18.0).view(3, 6, 1))[..., 0].tolist() == [[1, 2, 3, 4], [14, 15, 16, 17]]


def test_where_nobody_speaks_there_is_a_window_without_loss() -> None:
    tokens = torch.zeros(2, 2, 4, dtype=torch.int64)
    cut = answer_windows(LAYOUT, tokens, torch.ones(2, 2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool))
    assert cut.tokens.shape == (1, 2, 2)  # two columns, so that a decoder has one to predict from
    assert not cut.loss_mask[:, :, 1:].any()
