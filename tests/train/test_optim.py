"""The schedule at its corners."""

import pytest

from fineclip.train.optim import learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0)],
)
def test_linear_up_then_half_a_cosine_down(step: int, expected: float) -> None:
    assert learning_rate(step, of=100, peak=1.0, warmup=10) == pytest.approx(expected)


def test_without_warmup_it_starts_at_the_peak() -> None:
    assert learning_rate(0, of=10, peak=2.0, warmup=0) == 2.0
