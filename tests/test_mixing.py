"""Which rows make up a step, and how a step is cut into forward passes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from anytalk.data.examples import Example
from anytalk.data.feeds import Feed, ListFeed
from anytalk.data.mixing import Draw, Mixture, padding_share, split_rows
from anytalk.errors import ConfigError


class CountedFeed(Feed):
    """A feed that only knows how many examples serve each task."""

    def __init__(self, name: str, sizes: Mapping[str, int], weight: float = 1.0) -> None:
        self.name, self.weight, self._sizes = name, weight, sizes

    def indices(self, task: str) -> np.ndarray:
        return 100 + np.arange(self._sizes.get(task, 0))

    def example(self, index: int) -> Example:
        raise NotImplementedError

    def outline(self, index: int) -> Example:
        raise NotImplementedError


TWO = [
    CountedFeed("small", {"A1T1": 5, "A1A2": 3}, weight=1.0),
    CountedFeed("large", {"A1T1": 40, "T1T2": 11}, weight=3.0),
]
TASKS = {"A1T1": 4.0, "A1A2": 1.0, "T1T2": 3.0}
# A1T1 is shared 1:3 by the two feeds, the other tasks have one feed each.
SHARES = {(0, 0): 4 / 8 / 4, (0, 1): 4 / 8 * 3 / 4, (1, 0): 1 / 8, (2, 1): 3 / 8}


def mixture(batch_size: int = 10, seed: int = 3, feeds: Sequence[Feed] = TWO, tasks: Any = None) -> Mixture:
    return Mixture(feeds, TASKS if tasks is None else tasks, batch_size, seed)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 16, 192])
def test_shares_hold_in_every_batch_to_within_one_row(batch_size: int) -> None:
    mix, total = mixture(batch_size), Counter[tuple[int, int]]()
    for step in range(300):
        counts = Counter((draw.task, draw.feed) for draw in mix.draws(step))
        assert sum(counts.values()) == batch_size
        assert counts.keys() <= SHARES.keys()
        for pair, share in SHARES.items():
            assert abs(counts[pair] - share * batch_size) < 1 + 1e-9
        for task, weight in enumerate(TASKS.values()):
            of_task = sum(n for (t, _), n in counts.items() if t == task)
            assert abs(of_task - weight / 8 * batch_size) < 1 + 1e-9
        total += counts
    # The start of the systematic sample is uniform, so that no pair is favoured in the long run.
    for pair, share in SHARES.items():
        assert total[pair] / (300 * batch_size) == pytest.approx(share, abs=0.5 / np.sqrt(300) / batch_size + 1e-3)


def test_an_epoch_is_over_before_an_example_comes_again() -> None:
    drawn: dict[tuple[int, int], list[int]] = {}
    mix = mixture()
    for step in range(60):
        for draw in mix.draws(step):
            drawn.setdefault((draw.task, draw.feed), []).append(draw.index)
    sizes = {(0, 0): 5, (0, 1): 40, (1, 0): 3, (2, 1): 11}
    assert drawn.keys() == sizes.keys()
    for pair, indices in drawn.items():
        size = sizes[pair]
        epochs = [indices[i : i + size] for i in range(0, len(indices) - size + 1, size)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(100, 100 + size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1, "every epoch has an order of its own"


def test_a_step_is_a_function_of_its_number_alone() -> None:
    np.random.seed(1)
    mix = mixture()
    straight = [mix.draws(step) for step in range(40)]
    np.random.seed(2)
    assert [mixture().draws(step) for step in (0, 7, 39)] == [straight[0], straight[7], straight[39]]
    resumed = mixture()
    assert [resumed.draws(step) for step in range(25, 40)] == straight[25:]
    assert [resumed.draws(step) for step in reversed(range(40))] == straight[::-1]
    assert [mixture(seed=4).draws(step) for step in range(3)] != straight[:3]


class Draws(Dataset[list[Draw]]):
    def __init__(self, mix: Mixture) -> None:
        self._mix = mix

    def __getitem__(self, step: int) -> list[Draw]:
        return self._mix.draws(step)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch counts this machine's cores
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 13])
def test_any_number_of_loader_workers_sees_the_same(workers: int, first: int) -> None:
    mix = mixture()
    expected = [mix.draws(step) for step in range(30)][first:]
    loader = DataLoader(Draws(mixture()), batch_size=None, sampler=range(first, 30), num_workers=workers)
    assert list(loader) == expected


def test_feeds_share_a_task_by_weight_and_not_by_size() -> None:
    feeds = [CountedFeed("few", {"T1T2": 2}, 0.75), CountedFeed("many", {"T1T2": 5000}, 0.25)]
    mix = mixture(8, feeds=feeds, tasks={"T1T2": 1.0})
    assert all(Counter(draw.feed for draw in mix.draws(step)) == {0: 6, 1: 2} for step in range(20))


def test_a_feed_that_serves_nothing_is_never_drawn() -> None:
    feeds = [CountedFeed("a", {"T1T2": 2}), CountedFeed("none", {}, 9.0), CountedFeed("b", {"T1T2": 3, "A1T1": 1})]
    mix = mixture(7, feeds=feeds, tasks={"T1T2": 1.0, "A1T1": 1.0})
    assert {(draw.task, draw.feed) for step in range(50) for draw in mix.draws(step)} == {(0, 0), (0, 2), (1, 2)}


def test_a_task_without_rows_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="no row of the data serves task A1T2") as caught:
        mixture(tasks={"A1T1": 1.0, "A1T2": 1.0})
    assert "add a source" in caught.value.hint


def test_a_list_feed_knows_which_examples_serve_a_task() -> None:
    examples = [Example(id="a", tasks=("T1T2", "A1T1")), Example(id="b", tasks=("A1T1",)), Example(id="c", tasks=())]
    feed = ListFeed("rows", examples)
    assert [feed.indices(task).tolist() for task in ("A1T1", "T1T2", "T1A2")] == [[0, 1], [0], []]
    assert sorted(feed.order("A1T1", 0, seed=1).tolist()) == [0, 1]


# Passes


def test_passes_by_hand() -> None:
    #                                 rows 0..6
    lengths = [10, 40, 19, 100, 18, 39, 9]
    # Long first: 100 alone fills 80; 40 and 39 make 2 x 40 = 80; 19 and 18 2 x 19, a third row of 10 would leave
    # 57 - 47 = 10 of 57 empty, more than a tenth; 10 and 9.
    assert split_rows(lengths, max_positions=80, max_padding=0.1) == [[3], [1, 5], [2, 4], [0, 6]]
    # Without a limit of padding only positions count: 40 x 2, then 19 x 4 = 76.
    assert split_rows(lengths, max_positions=80, max_padding=0.99) == [[3], [1, 5], [2, 4, 0, 6]]
    assert split_rows(lengths, max_positions=79, max_padding=0.99) == [[3], [1], [5, 2], [4, 0, 6]]
    # Three passes for two devices: the first of those with most rows is halved.
    for_two = split_rows([5] * 6, max_positions=10, max_padding=0.1, multiple_of=2)
    assert for_two == [[0], [1], [2, 3], [4, 5]]
    assert padding_share(lengths, [[3], [1, 5], [2, 4], [0, 6]]) == pytest.approx(3 / (100 + 80 + 38 + 20))
    assert padding_share([4, 1], [[0, 1]]) == pytest.approx(3 / 8)


def realistic_lengths(generator: np.random.Generator, rows: int) -> list[int]:
    """Columns of a mixed batch: recognition, read aloud, spoken answers, typed ones; a prompt of 20 around each."""
    lengths = []
    for kind in generator.integers(0, 4, rows):
        question_s, answer_s = generator.uniform(1.2, 17), np.clip(generator.lognormal(2.2, 0.7), 0.8, 40)
        text = int(np.clip(generator.lognormal(4, 0.8), 3, 600))
        columns = {
            0: 10 * question_s + 2.7 * question_s,  # LibriSpeech's 1.2 to 17 s, 10 columns and 2.7 words a second
            1: text / 4 + 12.5 * answer_s,
            2: 10 * question_s / 3 + 12.5 * answer_s,
            3: 2 * text,
        }[int(kind)]
        lengths.append(20 + int(columns))
    return lengths


@pytest.mark.parametrize("batch_size", [32, 64, 192])
def test_padding_of_mixed_batches_stays_below_a_tenth(batch_size: int) -> None:
    generator = np.random.default_rng(batch_size)
    for _ in range(30):
        lengths = realistic_lengths(generator, batch_size)
        passes = split_rows(lengths, max_positions=8192, max_padding=0.1)
        assert sorted(row for rows in passes for row in rows) == list(range(batch_size))
        assert all(padding_share(lengths, [rows]) <= 0.1 for rows in passes)
        assert padding_share(lengths, passes) <= 0.1
        assert padding_share(lengths, [list(range(batch_size))]) > 0.3, "else there was nothing to do"
        # It isn't bought with passes of a row each: at most twelve more than memory alone would ask for.
        assert len(passes) <= np.ceil(sum(lengths) / 8192) + 12


@pytest.mark.parametrize("max_positions", [1, 50, 300, 5000])
@pytest.mark.parametrize("max_padding", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_limits_hold_for_any_rows(max_positions: int, max_padding: float, devices: int) -> None:
    generator = np.random.default_rng(1)
    for rows in (24, 48):
        lengths = generator.integers(1, 120, rows).tolist()
        passes = split_rows(lengths, max_positions=max_positions, max_padding=max_padding, multiple_of=devices)
        assert sorted(row for group in passes for row in group) == list(range(rows))
        assert len(passes) % devices == 0
        assert all(passes)
        for group in passes:
            assert len(group) == 1 or len(group) * max(lengths[r] for r in group) <= max_positions
            if devices == 1:
                assert padding_share(lengths, [group]) <= max_padding + 1e-12
        # Halving a pass never adds padding to the whole.
        alone = split_rows(lengths, max_positions=max_positions, max_padding=max_padding)
        assert padding_share(lengths, passes) <= padding_share(lengths, alone) + 1e-12


@pytest.mark.parametrize(("rows", "devices"), [(3, 4), (5, 2), (7, 3)])
def test_a_batch_that_devices_cannot_share_is_a_sentence(rows: int, devices: int) -> None:
    with pytest.raises(
        ConfigError, match=f"a batch of {rows} rows can't be divided evenly among {devices} devices"
    ) as caught:
        split_rows([100] * rows, max_positions=50, max_padding=0.1, multiple_of=devices)
    assert "batch_size" in caught.value.hint
