"""Batches: the same samples and draws for any number of workers and ranks; workers end with the training process."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fineclip.config import FineCLIPConfig, LoaderConfig, TrainConfig, parse
from fineclip.errors import DataError, ShardError
from fineclip.methods import METHODS
from fineclip.methods.transforms import DataSpec, TrainingExample
from fineclip.models.images import normalize_pixels
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.train.data import Collate, CPUBatch, PackedDataset, build_batches, to_device
from fineclip.train.grad_cache import region_bounds
from fineclip.train.sampler import BatchSampler, EpochOrder, SampleRef
from fineclip.train.selection import read_selection
from fineclip.types import Counts
from tests.helpers.packs import sample, write_pack, write_select, write_world
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8)
SIZES = {"a": 5, "b": 3, "c": 4}
STEPS = 6


def dataset_of(
    select: Path, packed: list[Path], *, method: str = "fineclip", inputs: DataSpec = INPUTS
) -> PackedDataset:
    keys = keys_by_shard(select)
    selection = read_selection(keys, manifests_of(keys, packed, stage="pack", select=select), TrainConfig())
    prepare = METHODS[method].build_transform(inputs, METHODS[method].config_type(), max_regions=1)
    return PackedDataset(selection.shards, prepare, seed=0)


@pytest.fixture
def samples(tmp_path: Path) -> PackedDataset:
    return dataset_of(*write_world(tmp_path, SIZES))


def read(
    samples: PackedDataset, *, start: int = 0, workers: int = 0, rank: int = 0, world_size: int = 1
) -> list[CPUBatch]:
    order = EpochOrder(tuple(SIZES.values()), batch_size=4, seed=0, shuffle_shards=2)
    sampler = BatchSampler(order, start=start, stop=STEPS, rank=rank, world_size=world_size)
    return list(build_batches(samples, Collate(INPUTS), sampler, workers=workers, pin_memory=False))


def assert_same(left: CPUBatch, right: CPUBatch) -> None:
    assert left.keys == right.keys
    assert left.crop_plans == right.crop_plans
    assert left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        assert torch.equal(value, right.tensors[name]), name


def test_regions_of_a_batch_are_concatenated_without_padding(samples: PackedDataset) -> None:
    for batch in read(samples):
        per_image = [0 if key.endswith(("1", "4")) else 1 for key in batch.keys]
        assert batch.images.shape == (4, 3, 16, 16)
        assert batch.box_to_image.tolist() == [image for image, count in enumerate(per_image) if count]
        assert batch.regions == len(batch.boxes) == len(batch.region_text_rows) == len(batch.crops) == sum(per_image)
        assert len(batch.text_rows) == 4


def test_workers_give_the_batches_of_the_main_process(samples: PackedDataset) -> None:
    for left, right in zip(read(samples), read(samples, workers=2), strict=True):
        assert_same(left, right)


def test_a_data_set_that_has_read_can_be_sent_to_another_process(samples: PackedDataset) -> None:
    """Where workers are not forked, each gets a copy, without the open files."""
    first = samples[SampleRef(0, 0)]
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy[SampleRef(0, 0)].image, first.image)


def test_a_later_start_gives_the_later_batches(samples: PackedDataset) -> None:
    for left, right in zip(read(samples)[4:], read(samples, start=4), strict=True):
        assert_same(left, right)


def padded(part_NL: torch.Tensor, whole_NL: torch.Tensor) -> torch.Tensor:
    """Pad to the length of the whole batch: each rank cuts its texts after the end of its longest."""
    return torch.nn.functional.pad(part_NL, (0, whole_NL.shape[1] - part_NL.shape[1]))


def test_texts_are_as_long_as_the_longest() -> None:
    tokens_NL = INPUTS.tokenize(["a", "abcd", "ab"])
    batch = Collate(INPUTS)(items_of(tokens_NL, tokens_NL[::2]))
    assert torch.equal(batch.texts, tokens_NL[:, :5])
    assert torch.equal(batch.region_texts, tokens_NL[::2][:, :3])
    assert batch.texts.untyped_storage().nbytes() == 3 * 5 * 8  # a view would send the storage that it is a view of


def items_of(texts: torch.Tensor, region_texts: torch.Tensor) -> list[TrainingExample]:
    """One example per text, all with the same regions."""
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    boxes = torch.zeros(len(region_texts), 4)
    return [
        TrainingExample(str(index), image, text=row, boxes=boxes, region_texts=region_texts)
        for index, row in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", ["tokens", "embeddings"])
def test_equal_texts_are_stored_once_in_the_order_of_first_use(kind: str) -> None:
    texts = INPUTS.tokenize(["b", "a", "b", "c", "a"])
    if kind == "embeddings":
        texts = texts.float() / 7
    batch = Collate(INPUTS)(items_of(texts, texts[2:]))
    length = 2 if kind == "tokens" else texts.shape[1]
    assert torch.equal(batch.texts, texts[[0, 1, 3], :length])
    assert batch.text_rows.tolist() == [0, 1, 0, 2, 1]
    assert torch.equal(batch.region_texts, texts[[2, 3, 4], :length])
    assert batch.region_text_rows.tolist() == [0, 1, 2] * 5
    assert batch.texts.dtype == texts.dtype


def test_bytes_of_a_batch() -> None:
    tokens_NL = INPUTS.tokenize(["a", "a"])
    batch = Collate(INPUTS)(items_of(tokens_NL, tokens_NL[:0]))
    assert (
        sum(value.nbytes for value in batch.tensors.values()) == 2 * 3 * 16 * 16 + 2 * 8 + 2 * 8
    )  # pixels, one text of two tokens, two rows


def test_ten_boxes_are_less_than_a_seventh_of_the_authors_template() -> None:
    pixels = torch.zeros(3, 224, 224, dtype=torch.uint8)
    texts, crops = INPUTS.tokenize(list("abcdefghij")), (pixels,) * 10
    batch = Collate(INPUTS)([TrainingExample("k", pixels, texts[0], torch.zeros(10, 4), texts, crops=crops)])
    assert 7 * sum(value.nbytes for value in batch.tensors.values()) < 20 * 3 * 224 * 224 * 4


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_split_the_batch_of_one_process(samples: PackedDataset, world_size: int) -> None:
    whole = read(samples)
    parts_of_ranks = [read(samples, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [rank_batches[step] for rank_batches in parts_of_ranks]
        assert tuple(key for part in parts for key in part.keys) == batch.keys
        for name in ("images", "boxes", "crops"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
        for name, rows in (("texts", "text_rows"), ("region_texts", "region_text_rows")):
            whole_NL = getattr(batch, name)[getattr(batch, rows)]
            own = [getattr(part, name)[getattr(part, rows)] for part in parts]
            assert torch.equal(torch.cat([padded(part_NL, whole_NL) for part_NL in own]), whole_NL)
        first = 0
        for part in parts:
            own = batch.box_to_image[(batch.box_to_image >= first) & (batch.box_to_image < first + len(part.keys))]
            assert torch.equal(part.box_to_image, own - first)
            first += len(part.keys)


def test_draws_differ_between_epochs(samples: PackedDataset) -> None:
    texts: dict[str, list[torch.Tensor]] = {}
    for batch in read(samples):
        for key, text in zip(batch.keys, batch.texts[batch.text_rows], strict=True):
            texts.setdefault(key, []).append(text)
    assert any(not torch.equal(visits[0], visits[1]) for visits in texts.values())


def test_a_method_without_regions_leaves_their_fields_empty(tmp_path: Path) -> None:
    batch = read(dataset_of(*write_world(tmp_path, SIZES), method="clip"))[0]
    assert batch.boxes is batch.region_texts is batch.crops is None
    assert batch.regions == 0


def test_pixels_stay_uint8_until_the_encoder_normalizes_them(samples: PackedDataset) -> None:
    host = read(samples)[0]
    batch = to_device(host, Counts([4], [host.regions]), torch.device("cpu"), seed=0)
    assert batch.images.dtype == batch.crops.dtype == torch.uint8
    encoder = tiny_encoder(dtype=torch.float32)
    assert torch.equal(encoder.preprocess(batch.images), normalize_pixels(host.images))
    assert torch.equal(encoder.encode_image(batch.crops), encoder.encode_image(normalize_pixels(host.crops)))
    assert batch.regions_per_image == tuple(torch.bincount(batch.box_to_image, minlength=4).tolist())
    assert torch.equal(batch.boxes, host.boxes)
    assert torch.equal(batch.text_rows, host.text_rows)


def test_regions_are_counted_for_the_last_images_too() -> None:
    image, text = torch.zeros(3, 16, 16, dtype=torch.uint8), INPUTS.tokenize(["a"])[0]
    items = [
        TrainingExample(str(index), image, text, torch.zeros(count, 4)) for index, count in enumerate((0, 2, 0, 0))
    ]
    batch = to_device(Collate(INPUTS)(items), Counts([4], [2]), torch.device("cpu"), seed=0)
    assert batch.regions_per_image == (0, 2, 0, 0)
    assert region_bounds(batch, range(5)) == [0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clip", {}),
        ("fineclip", {}),
        ("clipself", {}),
        ("clipself", {"regions": "patches"}),
        ("regionclip", {}),
        ("clim", {}),
    ],
)
def test_crops_of_the_device_equal_crops_of_the_workers(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    select, packed = write_world(tmp_path, SIZES)
    section = parse(METHODS[method].config_type, options, where="test")
    found = []
    for way in ("worker", "device"):
        inputs = replace(INPUTS, concepts=("thing",), loader=LoaderConfig(crops=way))
        samples = dataset_of(select, packed)
        samples.transform = METHODS[method].build_transform(inputs, section, max_regions=2)
        sampler = BatchSampler(
            EpochOrder((5, 3, 4), 12, seed=0, shuffle_shards=1), start=0, stop=1, rank=0, world_size=1
        )
        [host] = build_batches(samples, Collate(inputs), sampler, workers=0, pin_memory=False)
        assert (host.crop_plans is None) == (way == "worker")
        found.append(to_device(host, Counts([12], [host.regions]), torch.device("cpu"), seed=0))
    one, other = found
    assert one.images.shape == other.images.shape == (12, 3, 16, 16)
    assert error(one.images, other.images) < 2  # 45 dB, of noise: rounding alone differs
    assert (one.crops is None) == (other.crops is None) == (method not in {"fineclip", "clipself"})
    if one.crops is not None:
        assert one.crops.shape == other.crops.shape
        assert error(one.crops, other.crops) < 2
    assert one.boxes is None or torch.equal(one.boxes, other.boxes)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean squared difference."""
    return (found.double() - expected.double()).square().mean().item()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_reported_with_its_tar_and_key(tmp_path: Path, workers: int) -> None:
    manifest = write_pack(tmp_path, "a", [sample("a-000000"), sample("a-000001", image=b"<html>")])
    samples = dataset_of(write_select(tmp_path / "select.json", {"a": ["a-000000", "a-000001"]}), [manifest])
    sampler = BatchSampler(EpochOrder((2,), 2, seed=0, shuffle_shards=1), start=0, stop=1, rank=0, world_size=1)
    with pytest.raises(DataError, match=r"a\.tar: sample a-000001 no header of JPEG"):
        list(build_batches(samples, Collate(INPUTS), sampler, workers=workers, pin_memory=False))


def test_a_truncated_tar_is_reported_with_its_path(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, SIZES)
    samples = dataset_of(select, packed)
    tar = packed[1].with_suffix(".tar")
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ShardError, match=r"b\.tar: ends at byte"):
        read(samples)


def test_crops_are_made_only_if_the_method_uses_them(tmp_path: Path) -> None:
    samples = dataset_of(*write_world(tmp_path, SIZES))
    options = FineCLIPConfig.model_validate({"weights": {"distill": 0}})
    samples.transform = METHODS["fineclip"].build_transform(INPUTS, options, max_regions=1)
    assert read(samples)[0].crops is None


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise on this system")
def test_a_shard_is_read_ahead_as_a_whole_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[tuple[str, int, int, int]] = []

    def advise(descriptor: int, *said: int) -> None:
        advised.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, *said))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    read(dataset_of(*write_world(tmp_path, SIZES)))
    whole = (0, 0, os.POSIX_FADV_WILLNEED)
    assert sorted(advised) == [(f"{name}.tar", *whole) for name in sorted(SIZES)]


@pytest.mark.parametrize("crops", ["worker", "device"])
def test_batches_are_the_same_from_any_number_of_workers(tmp_path: Path, crops: str) -> None:
    inputs = replace(INPUTS, loader=LoaderConfig(crops=crops))
    samples = dataset_of(*write_world(tmp_path, SIZES), inputs=inputs)
    sampler = BatchSampler(EpochOrder(tuple(SIZES.values()), 4, 0, 2), 0, 12, rank=0, world_size=1)
    alone, *others = (
        list(build_batches(samples, Collate(inputs), sampler, workers=workers, pin_memory=False))
        for workers in (0, 1, 2)
    )
    assert len(alone) == 12
    assert all((batch.crop_plans is not None) == (crops == "device") for batch in alone)
    for batches in others:
        for found, expected in zip(batches, alone, strict=True):
            assert_same(found, expected)


def test_every_tensor_is_pinned(samples: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = read(samples)[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = batch.pin_memory()
    assert pinned.keys == batch.keys
    assert pinned.tensors.keys() == batch.tensors.keys()
    assert all(torch.equal(value, batch.tensors[name] + 1) for name, value in pinned.tensors.items())


SCRIPT = """
import multiprocessing, signal, sys
from pathlib import Path
from fineclip.errors import DataError
from fineclip.train.data import Collate, build_batches
from fineclip.train.sampler import BatchSampler, EpochOrder
from tests.helpers.packs import write_world
from tests.train.test_data import INPUTS, SIZES, dataset_of

class Holder:
    pass

def fail(sample, rng):
    raise DataError("sample 7 is broken")

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it
    samples = dataset_of(*write_world(Path(sys.argv[1]), SIZES))
    sampler = BatchSampler(EpochOrder((5, 3, 4), 4, 0, 2), 0, 500, rank=0, world_size=1)
    stream = build_batches(samples, Collate(INPUTS), sampler, workers=2, pin_memory=False)
    holder = Holder()
    holder.me, holder.stream = holder, stream  # a cycle, so that only the garbage collector or the exit ends it
    next(stream)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "exit":
        raise SystemExit(7)
    if sys.argv[2] == "error":
        samples.transform = fail
        next(build_batches(samples, Collate(INPUTS), sampler, workers=2, pin_memory=False))
    for line in sys.stdin:
        print(len([next(stream) for _ in range(int(line))]), flush=True)

if __name__ == "__main__":
    main()
"""


def started(folder: Path, how: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process in its own group; return it and the ids of its two workers."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "world"), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    return process, workers


def finished(process: subprocess.Popen[str], given: str = "") -> tuple[str, str]:
    """Return stdout and stderr of a process; kill it and its workers if it hangs."""
    try:
        return process.communicate(given, timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def assert_gone(workers: list[int], *, within_s: float) -> None:
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=within_s)
    assert alive == []


@pytest.mark.parametrize("how", ["exit", "error"])
def test_workers_end_if_the_training_stops_early(tmp_path: Path, how: str) -> None:
    process, workers = started(tmp_path, how)
    _, errors = finished(process)
    assert process.returncode == (7 if how == "exit" else 1)
    assert how == "exit" or errors.strip().endswith("DataError: sample 7 is broken")
    assert_gone(workers, within_s=0)


def test_workers_end_if_the_training_is_killed(tmp_path: Path) -> None:
    process, workers = started(tmp_path, "kill")
    with process:
        process.kill()
    assert_gone(workers, within_s=3)  # torch looks for the parent every 5 s


def test_workers_ignore_stop_signals(tmp_path: Path) -> None:
    process, workers = started(tmp_path, "signals")
    for number in (signal.SIGTERM, signal.SIGINT):
        for pid in workers:
            os.kill(pid, number)
    output, _ = finished(process, "40\n")
    assert (output, process.returncode) == ("40\n", 0)
    assert_gone(workers, within_s=0)
