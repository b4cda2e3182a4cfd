"""Check that ours and the plain formulation are the same function, before they are timed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from benchmarks.inputs import Step, packed, padded
from benchmarks.plain import Kernels, OurKernels, UpstreamKernels, plain_loss
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache, MicroBatchSizes

TOLERANCE = 1e-5


class Difference(NamedTuple):
    """Relative errors of the loss and of all gradients together."""

    loss: float
    gradients: float

    @property
    def is_rounding(self) -> bool:
        """Whether both errors are at most 1e-5."""
        return max(self) < TOLERANCE


def differences(method: FineCLIP, step: Step, sizes: MicroBatchSizes | None = None) -> dict[str, Difference]:
    """Compare ours with the plain formulation on our kernels and on those of upstream."""
    kernels: Mapping[str, Kernels] = {
        "our kernels": OurKernels(method.encoder),
        "upstream's trunk": UpstreamKernels(method.encoder),
    }
    batch, template = packed(step), padded(step)
    detaches = method.config.relaxed.detach_crops
    ours = outcome(method, lambda: GradCache(method, sizes)(batch).total)
    found = {}
    for name, each in kernels.items():
        plain = outcome(method, lambda each=each: plain_loss(method.encoder, each, template, detaches_crops=detaches))
        found[name] = difference(ours, plain)
    return found


def outcome(module: nn.Module, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a loss and all gradients, and clear the gradients of the module."""
    module.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    gradients = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
    module.zero_grad(set_to_none=True)
    return value.detach(), gradients


def difference(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> Difference:
    """Return the norm of the difference divided by the norm of the second; a gradient that only one has counts as a difference of 1."""
    loss = abs(float(one[0]) / float(other[0]) - 1)
    if one[1].keys() != other[1].keys():
        return Difference(loss, 1.0)
    apart = sum(float((gradient - other[1][name]).double().square().sum()) for name, gradient in one[1].items())
    whole = sum(float(gradient.double().square().sum()) for gradient in other[1].values())
    return Difference(loss, (apart / whole) ** 0.5)


def require_equal(method: FineCLIP, step: Step) -> dict[str, Difference]:
    """Check that ours and the plain formulation compute the same loss and gradients.

    Args:
        method: Method with the weights that both use.
        step: Input of both.

    Returns:
        Relative differences by kernels of the plain formulation.

    Raises:
        SystemExit: A difference exceeds rounding error, so timings would compare different functions.
    """
    found = differences(method, step)
    for name, each in found.items():
        if not each.is_rounding:
            raise SystemExit(
                f"ours and the plain formulation on {name} differ: loss {each.loss:g}, gradients {each.gradients:g}"
            )
    return found
