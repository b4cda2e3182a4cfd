"""Order of the samples: each sample once per epoch, the same for any number of ranks and from any step."""

from itertools import chain

import pytest

from fineclip.methods.transforms import ImageGroup
from fineclip.train.sampler import BatchSampler, EpochOrder, SampleRef, split_by_rank

ORDER = EpochOrder((5, 3, 4, 6), batch_size=4, seed=3, shuffle_shards=2)


def rows(order: EpochOrder, steps: range) -> list[int]:
    return [sample.row for step in steps for sample in order.batch(step)]


def test_an_epoch_has_each_sample_once_without_the_incomplete_last_batch() -> None:
    assert ORDER.steps_per_epoch == 18 // 4
    seen = rows(ORDER, range(4))
    assert len(seen) == 16
    assert len(set(seen)) == 16
    assert set(seen) < set(range(18))


def test_order_depends_on_epoch_and_seed() -> None:
    first, second = rows(ORDER, range(4)), rows(ORDER, range(4, 8))
    other = rows(EpochOrder(ORDER.shard_sizes, 4, seed=4, shuffle_shards=2), range(4))
    assert first != second
    assert first != other
    assert rows(ORDER, range(4)) == first
    assert {sample.epoch for sample in ORDER.batch(4)} == {1}


def test_samples_are_shuffled_inside_windows_of_shards() -> None:
    order = EpochOrder((10, 10, 10, 10), batch_size=20, seed=0, shuffle_shards=2)
    windows = [{sample.row // 10 for sample in order.batch(step)} for step in range(2)]
    assert sorted(map(len, windows)) == [2, 2]
    assert windows[0] | windows[1] == {0, 1, 2, 3}
    assert rows(order, range(1)) != sorted(rows(order, range(1)))


def test_fewer_samples_than_a_batch_give_one_batch() -> None:
    order = EpochOrder((2, 1), batch_size=8, seed=0, shuffle_shards=4)
    assert order.steps_per_epoch == 1
    assert order.images_per_step == 3
    assert ORDER.images_per_step == 4
    assert sorted(rows(order, range(1))) == [0, 1, 2]
    assert order.batch(2)[0].epoch == 2


def test_position_counts_epochs_and_steps() -> None:
    assert ORDER.position(0) == (0, 0)
    assert ORDER.position(9) == (2, 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 6])
def test_slices_of_the_ranks_are_the_batch_in_order(world_size: int) -> None:
    order = EpochOrder(ORDER.shard_sizes, batch_size=7, seed=3, shuffle_shards=2)
    batch = order.batch(1)
    samplers = [BatchSampler(order, start=1, stop=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    slices = [next(iter(sampler)) for sampler in samplers]
    assert list(chain.from_iterable(slices)) == batch
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize(
    ("world_size", "sizes"),
    [(1, [32]), (2, [13, 19]), (3, [4, 9, 19]), (4, [4, 9, 0, 19]), (6, [4, 0, 9, 0, 16, 3])],
)
def test_groups_stay_whole_and_costs_are_balanced(world_size: int, sizes: list[int]) -> None:
    groups = [
        ImageGroup(4, 21),
        ImageGroup(9, 21),
        ImageGroup(16, 21),
        ImageGroup(1, 1),
        ImageGroup(1, 1),
        ImageGroup(1, 1),
    ]
    batch = [SampleRef(row, 0) for row in range(32)]
    slices = [split_by_rank(batch, groups, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert list(chain.from_iterable(slices)) == batch
    assert [len(part) for part in slices] == sizes


@pytest.mark.parametrize("world_size", range(1, 40))
def test_slices_are_complete_for_any_costs(world_size: int) -> None:
    groups = [ImageGroup(1 + index % 3, 0.1 + (index * 7919 % 13) / 3) for index in range(17)]
    batch = [SampleRef(row, 0) for row in range(sum(group.images for group in groups))]
    slices = [split_by_rank(batch, groups, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert list(chain.from_iterable(slices)) == batch


def test_a_later_start_gives_the_later_batches() -> None:
    whole = list(BatchSampler(ORDER, start=0, stop=8, rank=1, world_size=2))
    assert len(whole) == 8
    assert list(BatchSampler(ORDER, start=5, stop=8, rank=1, world_size=2)) == whole[5:]


def test_order_is_the_recorded_one() -> None:
    # another order needs another VERSION in train/run.py
    assert ORDER.batch(0) == [SampleRef(row, 0) for row in (17, 11, 10, 14)]
    assert ORDER.batch(4) == [SampleRef(row, 1) for row in (5, 4, 7, 1)]
