"""Counters count what is there, on things small enough to know the answer."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils.checkpoint import checkpoint

from benchmarks.counting import HOST_ONLY, counted_calls, on_a_gpu
from benchmarks.inputs import build_method, packed, random_encoder, random_step
from benchmarks.memory import Live, Saved, step_bytes
from fineclip.methods.fineclip import FineCLIP
from fineclip.train.grad_cache import GradCache, MicroBatchSizes
from fineclip.types import Losses
from tests.helpers.encoders import encoder_config

SIDE = 32


def method_in(folder: Path) -> FineCLIP:
    return build_method(random_encoder(encoder_config(folder, "eva").model, size=SIDE))


def test_a_storage_is_counted_once_and_taken_off_when_it_is_let_go() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    saved = Saved([weight])
    with saved.hooks():
        hidden = torch.ones(8, 4) @ weight  # keeps its input, 8 x 4 floats, and the weight
        value = hidden.sin() * hidden.cos()  # both of them, 8 x 4 each, and hidden once
    assert saved.now == saved.most == 4 * (8 * 4) * 4
    value.sum().backward()
    del hidden, value
    assert saved.now == 0 and saved.most == 4 * (8 * 4) * 4


def test_casts_of_weights_are_not_counted() -> None:
    layer = torch.nn.Linear(16, 16, bias=False)
    rows = torch.ones(2, 16)
    saved = Saved(layer.parameters())
    with Live(saved, layer.parameters()), saved.hooks(), torch.autocast("cpu", dtype=torch.bfloat16):
        value = layer(rows).sum()
    assert saved.now == 2 * 16 * 2
    del value


def test_all_tensors_at_once() -> None:
    with Live() as live:
        one = torch.ones(100)
        two = one * 2
        del one
        three = two + two
    assert live.most == 800 and live.now == 800
    del two, three
    assert live.now == 0


def test_checkpoints_keep_less() -> None:
    layers = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU()) for _ in range(4)])
    rows = torch.randn(64, 32, requires_grad=True)

    def again() -> torch.Tensor:
        value = rows
        for layer in layers:
            value = checkpoint(layer, value, use_reentrant=False)
        return value.sum()

    kept = step_bytes(layers, lambda: layers(rows).sum(), precision=torch.float32)
    less = step_bytes(layers, again, precision=torch.float32)
    assert less.saved < kept.saved / 1.5
    assert all(each.grad is None for each in layers.parameters())


def test_chunks_keep_less_for_the_backward_pass(tmp_path: Path) -> None:
    method = method_in(tmp_path)
    batch = packed(random_step(method.encoder, [6, 6], size=SIDE))
    plain, split = GradCache(method), GradCache(method, MicroBatchSizes(crops=2))
    whole = step_bytes(method, lambda: plain(batch).total)
    assert step_bytes(method, lambda: plain(batch).total).saved == whole.saved
    assert step_bytes(method, lambda: split(batch).total).saved < whole.saved / 2.5


def test_reads_of_the_host_are_seen() -> None:
    values = torch.arange(4.0)
    with counted_calls() as calls:
        float(values[0])
        values.tolist()
        values[values > 1]
        values.nonzero()
        bool((values > 1).any())
        values[1:3] + values.index_select(0, torch.tensor([0, 1]))
    assert calls.waits == 5


def test_a_step_reads_nothing_of_the_device(tmp_path: Path) -> None:
    """On a CPU it looks at boxes and owners; on a device of the kind cuda it reads no value at all."""
    for sizes in (MicroBatchSizes(), MicroBatchSizes(crops=2), MicroBatchSizes(crops=2, images=1)):
        method = method_in(tmp_path)
        batch = packed(random_step(method.encoder, [2, 1], size=SIDE))
        with counted_calls() as calls:
            GradCache(method, sizes)(batch).total.backward()
        assert set(calls.reads) <= HOST_ONLY, sizes
        assert calls.waits == 0
    on_a_gpu(GradCache(method), batch)


def test_a_read_on_a_gpu_would_be_seen(tmp_path: Path) -> None:
    class Reading(GradCache):
        def forward(self, batch: object) -> Losses:
            losses = super().forward(batch)  # type: ignore[arg-type]
            return Losses(losses.total * float(losses.total), losses.terms)

    encoder = method_in(tmp_path).encoder
    model = Reading(build_method(encoder))
    with pytest.raises(DataDependentOutputException):
        on_a_gpu(model, packed(random_step(encoder, [1], size=SIDE)))
