"""How many items of the miniature's web have each flaw."""

from fineclip.miniature.web import SHARES, truth_and_original


def true_counts(seed: int, count: int, *, items_per_shard: int) -> dict[str, int]:
    """Counts of the truths that occur among the first items, in the order of their declaration."""
    truths = [truth_and_original(seed, index, items_per_shard=items_per_shard)[0] for index in range(count)]
    return {truth: truths.count(truth) for truth in SHARES if truth in truths}
