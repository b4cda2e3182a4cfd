"""Whether a training is still one: every step's loss is looked at, one step later, so that the device is never waited for.

All processes see the same averages, so that all stop or none.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from fineclip.errors import TrainingError
from fineclip.train.distributed import Averages, Processes
from fineclip.types import Losses

LOOKS = 10  # losses whose mean says that a training diverges: one bad batch does not
LEAST = 0.1  # of the first loss, for what `max_growth` multiplies: one near 0 says nothing
NAMED = 8  # samples that a message names


@dataclass(frozen=True)
class Look:
    """A step whose averages are on their way."""

    step: int
    keys: Sequence[str]
    averages: Averages


@dataclass
class Watch:
    """Over the losses of a training.

    Args:
        max_growth: the mean of the last losses may be so many times the first; None: any.
        where: the run, for messages.
    """

    processes: Processes
    max_growth: float | None
    where: str
    steps: int
    first: float | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=LOOKS))
    _coming: Look | None = None

    def begin(self, step: int, losses: Losses, keys: Sequence[str]) -> dict[str, float] | None:
        """Send the losses of a step off, and judge those of the step before."""
        values = self.judged()
        averages = self.processes.averages({"total": losses.total, **losses.terms})
        self._coming = Look(step, keys, averages)
        return values

    def judged(self) -> dict[str, float] | None:
        """Total and terms of the last step that was sent off, over the whole batch; None if it was judged before.

        Raises:
            TrainingError: they are not finite, or have grown too much.
        """
        look, self._coming = self._coming, None
        if look is None:
            return None
        values = look.averages.values()
        total = values["total"]
        if not math.isfinite(total):
            raise TrainingError(self._message(look, values, "the loss is no longer finite"))
        self.first = total if self.first is None else self.first
        self.recent.append(total)
        mean, limit = sum(self.recent) / len(self.recent), (self.max_growth or math.inf) * max(self.first, LEAST)
        if len(self.recent) == LOOKS and mean > limit:
            said = f"the loss diverges, {mean:g} in the mean of {LOOKS} steps after {self.first:g} at first"
            raise TrainingError(self._message(look, values, f"{said} (train.max_growth: {self.max_growth:g})"))
        return values

    def _message(self, look: Look, values: Mapping[str, float], what: str) -> str:
        terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
        keys = self._keys_of_all(look.keys)
        others = f" and {len(keys) - NAMED} others" if len(keys) > NAMED else ""
        return (
            f"{self.where}: {what} at step {look.step + 1} of {self.steps}: {terms}."
            f" Its batch: {', '.join(keys[:NAMED])}{others}."
            " Lower train.learning_rate, set train.clip_gradient_norm, lengthen train.warmup_steps,"
            " or set train.precision: fp32."
        )

    def _keys_of_all(self, own: Sequence[str]) -> list[str]:
        """All processes come here at the same step, because all have seen the same average."""
        if self.processes.world_size == 1:
            return list(own)
        everywhere: list[Sequence[str]] = [()] * self.processes.world_size
        dist.all_gather_object(everywhere, list(own))
        return [key for keys in everywhere for key in keys]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"first": self.first, "recent": list(self.recent)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.first = state["first"]
        self.recent = deque(state["recent"], maxlen=LOOKS)
