"""The loss is the formula, and several processes are one."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fineclip.losses.contrastive import all_gather_rows, contrastive_loss, global_mean
from tests.helpers.processes import run_processes

ONE = torch.tensor(1.0)


def test_two_orthogonal_pairs() -> None:
    pairs = torch.eye(2)
    # each row: -log(e^s / (e^s + e^0)) with s = 1
    assert contrastive_loss(pairs, pairs, logit_scale=ONE, counts=[2]).item() == pytest.approx(
        math.log(1 + math.exp(-1))
    )


def test_both_directions_count_half() -> None:
    left, right = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # from the left: row 0 sees (1, 1), row 1 sees (0, 0), a coin toss each; from the right both see (1, 0)
    from_right = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    expected = (math.log(2) + from_right) / 2
    assert contrastive_loss(left, right, logit_scale=ONE, counts=[2]).item() == pytest.approx(expected)


def test_lengths_of_rows_do_not_matter() -> None:
    left, right = rows(5, seed=0), rows(5, seed=1)
    scaled = contrastive_loss(left * 7, right * 0.1, logit_scale=10 * ONE, counts=[5])
    torch.testing.assert_close(scaled, contrastive_loss(left, right, logit_scale=10 * ONE, counts=[5]))


def test_order_of_pairs_does_not_matter() -> None:
    left, right, order = rows(6, seed=0), rows(6, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = contrastive_loss(left[order], right[order], logit_scale=10 * ONE, counts=[6])
    torch.testing.assert_close(shuffled, contrastive_loss(left, right, logit_scale=10 * ONE, counts=[6]))


def test_no_rows_is_zero_and_carries_gradient() -> None:
    left = torch.zeros(0, 4, requires_grad=True)
    loss = contrastive_loss(left, left, logit_scale=ONE, counts=[0])
    loss.backward()
    assert loss.item() == 0
    assert left.grad is not None


def test_logits_are_float32_under_autocast() -> None:
    left, right = rows(8, seed=0), rows(8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_loss(left, right, logit_scale=100 * ONE, counts=[8])
    assert torch.equal(inside, contrastive_loss(left, right, logit_scale=100 * ONE, counts=[8]))


def test_mean_of_two_processes_is_the_mean_of_all_rows() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    parts = [global_mean(part, [1, 2]) for part in values.split([1, 2])]
    assert sum(part.item() for part in parts) / 2 == pytest.approx(3.0)


CASES = {2: ((3, 5), (0, 4), (0, 0)), 3: ((2, 1, 6), (0, 0, 3))}


@pytest.mark.parametrize("world_size", CASES)
def test_processes_equal_one(world_size: int) -> None:
    cases = CASES[world_size]
    per_rank = [[parts_of(counts)[rank] for counts in cases] for rank in range(world_size)]
    everywhere = run_processes(losses_and_gradients, per_rank, [cases] * world_size)
    for number, counts in enumerate(cases):
        whole = losses_and_gradients([(rows(sum(counts), seed=0), rows(sum(counts), seed=1))], [[sum(counts)]])[0]
        own = [results[number] for results in everywhere]
        assert sum(one[0] for one in own) / world_size == pytest.approx(whole[0], rel=1e-12)
        for place in (1, 2):
            torch.testing.assert_close(torch.cat([one[place] for one in own]) / world_size, whole[place])
        torch.testing.assert_close(sum(one[3] for one in own) / world_size, whole[3])


def test_gathering_leaves_the_gradients_of_other_terms_alone() -> None:
    """Autograd hands the gradient of a sum to both terms, in the same memory."""
    for rank, (gathered, other) in enumerate(run_processes(gradients_of_a_sum, range(2))):
        assert torch.equal(gathered, torch.full((2 - rank, 4), 1.0 + 2.0))
        assert torch.equal(other, torch.full((3, 4), rank + 1.0))


def gradients_of_a_sum(rank: int) -> tuple[Tensor, Tensor]:
    """Gradients of gathered rows and of what is added to them, weighted by 1 and by 2."""
    own, other = torch.zeros(2 - rank, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    term = 1 * other  # made before the rows are gathered, so that its backward pass comes after theirs
    ((all_gather_rows(own, [2, 1]) + term) * (rank + 1)).sum().backward()
    assert own.grad is not None and other.grad is not None
    return own.grad, other.grad


def rows(count: int, *, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts_of(counts: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    left, right = (rows(sum(counts), seed=seed).split(list(counts)) for seed in (0, 1))
    return list(zip(left, right, strict=True))


def losses_and_gradients(
    pairs: Sequence[tuple[Tensor, Tensor]], cases: Sequence[Sequence[int]]
) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """For each pair of sides the loss and the gradients of left, right and scale."""
    results = []
    for (left, right), counts in zip(pairs, cases, strict=True):
        leaves = [left.clone().requires_grad_(), right.clone().requires_grad_(), torch.tensor(10.0, requires_grad=True)]
        loss = contrastive_loss(leaves[0], leaves[1], logit_scale=leaves[2].double(), counts=counts)
        loss.backward()
        results.append((loss.item(), *(leaf.grad for leaf in leaves)))
    return results
