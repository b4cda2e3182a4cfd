"""Methods on the tiny encoder, and what one batch makes of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fineclip.config import parse
from fineclip.methods import METHODS, Method
from fineclip.train.distributed import DistributedContext
from fineclip.train.grad_cache import GradCache
from fineclip.types import Batch
from tests.helpers.tiny import tiny_encoder

Outcome = tuple[dict[str, float], dict[str, Tensor | None]]


def made(name: str, options: Mapping[str, Any]) -> Method[Any]:
    """A method in float64, always with the same weights."""
    method_class = METHODS[name]
    return method_class(tiny_encoder(), parse(method_class.config_type, options, where="test"))


def outcome_of(method: Method[Any], batch: Batch, model: torch.nn.Module | None = None) -> Outcome:
    """Total and terms of the loss, and every gradient, through `model` or through a `GradCache` without micro-batches."""
    losses = (model or GradCache(method))(batch)
    losses.total.backward()
    values = {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}
    return values, {name: parameter.grad for name, parameter in method.named_parameters()}


def outcome_of_part(method: Method[Any], part: Batch) -> Outcome:
    """On one of several processes, through DistributedDataParallel."""
    counts = part.counts.images
    rank = torch.distributed.get_rank()
    context = DistributedContext(rank, len(counts), torch.device("cpu"))
    return outcome_of(method, part, context.wrap(GradCache(method)))


def assert_processes_equal_one(own: list[Outcome], whole: Outcome, what: Any) -> None:
    """The mean of the losses, and every gradient on every process, those that are None too."""
    for term, value in whole[0].items():
        average = sum(values[term] for values, _ in own) / len(own)
        assert abs(average - value) <= 1e-10 + 1e-10 * abs(value), (what, term)
    for _, gradients in own:
        assert {name for name, value in gradients.items() if value is None} == {
            name for name, value in whole[1].items() if value is None
        }, what
        for name, gradient in whole[1].items():
            if gradient is not None:
                torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-11, msg=f"{what} {name}")
