"""Batches: the same samples and the same draws for any number of workers and processes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fineclip.config import FineCLIPConfig, LoaderConfig, TrainConfig, parse
from fineclip.errors import DataError, ShardError
from fineclip.methods import METHODS
from fineclip.methods.transforms import DataSpec, TrainingExample
from fineclip.models.images import normalise
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.train.loader import Collate, HostBatch, PackedSamples, batches, placed
from fineclip.train.order import BatchSampler, Order
from fineclip.train.selection import read_selection
from fineclip.types import Counts
from tests.helpers.packs import sample, write_pack, write_select, write_world
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8)
SIZES = {"a": 5, "b": 3, "c": 4}
STEPS = 6


def samples_of(
    select: Path, packed: list[Path], *, method: str = "fineclip", inputs: DataSpec = INPUTS
) -> PackedSamples:
    keys = keys_by_shard(select)
    selection = read_selection(keys, manifests_of(keys, packed, stage="pack", select=select), TrainConfig())
    prepare = METHODS[method].build_transform(inputs, METHODS[method].config_type(), max_regions=1)
    return PackedSamples(selection.shards, prepare, seed=0)


@pytest.fixture
def samples(tmp_path: Path) -> PackedSamples:
    return samples_of(*write_world(tmp_path, SIZES))


def read(
    samples: PackedSamples, *, start: int = 0, workers: int = 0, rank: int = 0, world_size: int = 1
) -> list[HostBatch]:
    order = Order(tuple(SIZES.values()), batch_size=4, seed=0, shuffle_shards=2)
    sampler = BatchSampler(order, start=start, stop=STEPS, rank=rank, world_size=world_size)
    return [kept(batch) for batch in batches(samples, Collate(INPUTS), sampler, workers=workers, pin=False)]


def kept(batch: HostBatch) -> HostBatch:
    """A copy: what lies in the ring is written again."""
    copies = {name: value.clone() for name, value in batch.tensors.items()}
    return HostBatch(**(batch._asdict() | copies | {"lease": None}))


def assert_same(left: HostBatch, right: HostBatch) -> None:
    assert left.keys == right.keys
    assert left.cuts == right.cuts
    assert left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        assert torch.equal(value, right.tensors[name]), name


def test_a_batch_is_packed(samples: PackedSamples) -> None:
    for batch in read(samples):
        per_image = [0 if key.endswith(("1", "4")) else 1 for key in batch.keys]
        assert batch.images.shape == (4, 3, 16, 16)
        assert batch.box_to_image.tolist() == [image for image, count in enumerate(per_image) if count]
        assert batch.regions == len(batch.boxes) == len(batch.region_text_rows) == len(batch.crops) == sum(per_image)
        assert len(batch.text_rows) == 4


def test_workers_change_nothing(samples: PackedSamples) -> None:
    for left, right in zip(read(samples), read(samples, workers=2), strict=True):
        assert_same(left, right)


def test_a_later_start_goes_on_where_the_other_stood(samples: PackedSamples) -> None:
    for left, right in zip(read(samples)[4:], read(samples, start=4), strict=True):
        assert_same(left, right)


def lengthened(part_NL: torch.Tensor, whole_NL: torch.Tensor) -> torch.Tensor:
    """Each process cuts its texts after the last end of its own."""
    return torch.nn.functional.pad(part_NL, (0, whole_NL.shape[1] - part_NL.shape[1]))


def test_texts_are_as_long_as_the_longest() -> None:
    tokens_NL = INPUTS.tokenize(["a", "abcd", "ab"])
    batch = Collate(INPUTS)(items_of(tokens_NL, tokens_NL[::2]))
    assert torch.equal(batch.texts, tokens_NL[:, :5])
    assert torch.equal(batch.region_texts, tokens_NL[::2][:, :3])
    assert batch.texts.untyped_storage().nbytes() == 3 * 5 * 8  # what is sent from a worker


def items_of(texts: torch.Tensor, region_texts: torch.Tensor) -> list[TrainingExample]:
    """One for each text, all with the same regions."""
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    boxes = torch.zeros(len(region_texts), 4)
    return [
        TrainingExample(str(index), image, text=row, boxes=boxes, region_texts=region_texts)
        for index, row in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", ["tokens", "embeddings"])
def test_a_text_that_several_rows_share_is_kept_once_in_the_order_of_their_first(kind: str) -> None:
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


def test_bytes_to_the_device_are_those_of_its_tensors() -> None:
    tokens_NL = INPUTS.tokenize(["a", "a"])
    batch = Collate(INPUTS)(items_of(tokens_NL, tokens_NL[:0]))
    assert batch.bytes_to_device == 2 * 3 * 16 * 16 + 2 * 8 + 2 * 8  # pixels, one text of two tokens, two rows


def test_ten_boxes_are_less_than_a_seventh_of_the_authors_template() -> None:
    pixels = torch.zeros(3, 224, 224, dtype=torch.uint8)
    texts, crops = INPUTS.tokenize(list("abcdefghij")), pixels.expand(10, -1, -1, -1)
    batch = Collate(INPUTS)([TrainingExample("k", pixels, texts[0], torch.zeros(10, 4), texts, crops=crops)])
    assert 7 * batch.bytes_to_device < 20 * 3 * 224 * 224 * 4


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_the_same_samples_and_draws(samples: PackedSamples, world_size: int) -> None:
    whole = read(samples)
    shares = [read(samples, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert tuple(key for part in parts for key in part.keys) == batch.keys
        for name in ("images", "boxes", "crops"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
        for name, rows in (("texts", "text_rows"), ("region_texts", "region_text_rows")):
            whole_NL = getattr(batch, name)[getattr(batch, rows)]
            own = [getattr(part, name)[getattr(part, rows)] for part in parts]
            assert torch.equal(torch.cat([lengthened(part_NL, whole_NL) for part_NL in own]), whole_NL)
        first = 0
        for part in parts:
            own = batch.box_to_image[(batch.box_to_image >= first) & (batch.box_to_image < first + len(part.keys))]
            assert torch.equal(part.box_to_image, own - first)
            first += len(part.keys)


def test_draws_differ_between_epochs(samples: PackedSamples) -> None:
    texts: dict[str, list[torch.Tensor]] = {}
    for batch in read(samples):
        for key, text in zip(batch.keys, batch.texts[batch.text_rows], strict=True):
            texts.setdefault(key, []).append(text)
    assert any(not torch.equal(visits[0], visits[1]) for visits in texts.values())


def test_a_method_without_regions_leaves_their_fields_empty(tmp_path: Path) -> None:
    batch = read(samples_of(*write_world(tmp_path, SIZES), method="clip"))[0]
    assert batch.boxes is batch.region_texts is batch.crops is None
    assert batch.regions == 0


def test_pixels_are_normalised_where_they_are_used(samples: PackedSamples) -> None:
    host = read(samples)[0]
    batch = placed(host, Counts([4], [host.regions]), torch.device("cpu"), seed=0)
    assert batch.images.dtype == batch.crops.dtype == torch.uint8
    encoder = tiny_encoder(dtype=torch.float32)
    assert torch.equal(encoder.seen(batch.images), normalise(host.images))
    assert torch.equal(encoder.encode_image(batch.crops), encoder.encode_image(normalise(host.crops)))
    assert batch.regions_per_image == tuple(torch.bincount(batch.box_to_image, minlength=4).tolist())
    assert torch.equal(batch.boxes, host.boxes)
    assert torch.equal(batch.text_rows, host.text_rows)


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
def test_the_device_cuts_what_the_workers_would(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    select, packed = write_world(tmp_path, SIZES)
    section = parse(METHODS[method].config_type, options, where="test")
    found = []
    for way in ("worker", "device"):
        inputs = replace(INPUTS, concepts=("thing",), loader=LoaderConfig(crops=way))
        samples = samples_of(select, packed)
        samples.prepare = METHODS[method].build_transform(inputs, section, max_regions=2)
        sampler = BatchSampler(Order((5, 3, 4), 12, seed=0, shuffle_shards=1), start=0, stop=1, rank=0, world_size=1)
        [host] = batches(samples, Collate(inputs), sampler, workers=0, pin=False)
        assert (host.cuts is None) == (way == "worker")
        found.append(placed(host, Counts([12], [host.regions]), torch.device("cpu"), seed=0))
    one, other = found
    assert one.images.shape == other.images.shape == (12, 3, 16, 16)
    assert error(one.images, other.images) < 2  # 45 dB, of noise: rounding alone differs
    assert (one.crops is None) == (other.crops is None) == (method not in {"fineclip", "clipself"})
    if one.crops is not None:
        assert one.crops.shape == other.crops.shape
        assert error(one.crops, other.crops) < 2
    assert one.boxes is None or torch.equal(one.boxes, other.boxes)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The mean square of the difference."""
    return (found.double() - expected.double()).square().mean().item()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_image_is_named(tmp_path: Path, workers: int) -> None:
    manifest = write_pack(tmp_path, "a", [sample("a-000000"), sample("a-000001", image=b"<html>")])
    samples = samples_of(write_select(tmp_path / "select.json", {"a": ["a-000000", "a-000001"]}), [manifest])
    sampler = BatchSampler(Order((2,), 2, seed=0, shuffle_shards=1), start=0, stop=1, rank=0, world_size=1)
    with pytest.raises(DataError, match=r"a\.tar: sample a-000001 no header of JPEG"):
        list(batches(samples, Collate(INPUTS), sampler, workers=workers, pin=False))


def test_a_tar_that_was_cut_is_named(tmp_path: Path) -> None:
    select, packed = write_world(tmp_path, SIZES)
    samples = samples_of(select, packed)
    tar = packed[1].with_suffix(".tar")
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ShardError, match=r"b\.tar: ends at byte"):
        read(samples)


def test_crops_are_made_only_where_they_are_compared(tmp_path: Path) -> None:
    samples = samples_of(*write_world(tmp_path, SIZES))
    options = FineCLIPConfig.model_validate({"weights": {"distill": 0}})
    samples.prepare = METHODS["fineclip"].build_transform(INPUTS, options, max_regions=1)
    assert read(samples)[0].crops is None


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be told what will be read")
def test_a_shard_is_announced_as_a_whole_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[tuple[str, int, int, int]] = []

    def advise(descriptor: int, *said: int) -> None:
        announced.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, *said))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    read(samples_of(*write_world(tmp_path, SIZES)))
    whole = (0, 0, os.POSIX_FADV_WILLNEED)
    assert sorted(announced) == [(f"{name}.tar", *whole) for name in sorted(SIZES)]
