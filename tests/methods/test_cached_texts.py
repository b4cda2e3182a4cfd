"""Texts that were embedded beforehand change neither the loss nor a gradient of any method that compares them."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fineclip.config import MethodConfig, TrainConfig, parse
from fineclip.errors import ShardError
from fineclip.methods import METHODS
from fineclip.methods.texts import CachedTexts
from fineclip.methods.transforms import DataSpec
from fineclip.models.embed_texts import embed_texts, text_tower_hash
from fineclip.models.encoder import RegionEncoder
from fineclip.shards import ByteRangeReader, TextsFile, write_texts
from fineclip.stages.embed_texts import texts_of
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.train.data import Collate, PackedDataset, build_batches, to_device
from fineclip.train.sampler import BatchSampler, EpochOrder
from fineclip.train.selection import Selection, read_selection
from fineclip.types import Batch, Counts
from tests.helpers.methods import Outcome, outcome_of
from tests.helpers.packs import sample, write_world
from tests.helpers.tiny import TinyTokenizer, tiny_encoder

SIZES = {"a": 5, "b-c": 3}
INPUTS = DataSpec(TinyTokenizer(), image_size=16, crop_size=8, concepts=("thing", "other"))
METHODS_WITH_TEXTS: dict[str, Mapping[str, Any]] = {
    "clip": {},
    "fineclip": {},
    "clim": {"mosaics": [2], "mosaic_size": 16},
    "regionclip": {"targets": "pseudo", "prompts": "photo"},
}


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    select, packed = write_world(tmp_path_factory.mktemp("world"), SIZES)
    keys = keys_by_shard(select)
    return read_selection(keys, manifests_of(keys, packed, stage="pack", select=select), TrainConfig())


@pytest.fixture(scope="module")
def cached(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> CachedTexts:
    folder, encoder = tmp_path_factory.mktemp("texts"), tiny_encoder(dtype=torch.float32)
    files = {}
    for shard in selection.shards:
        with ByteRangeReader() as reader:
            found = [text for row in range(len(shard)) for text in texts_of(shard.read(row, reader))]
        texts = list(dict.fromkeys(found))
        files[shard.tar.stem] = folder / f"{shard.tar.stem}.safetensors"
        features = embed_texts(encoder, TinyTokenizer()(texts), batch_size=4).numpy()
        write_texts(files[shard.tar.stem], texts, features, text_tower=text_tower_hash(encoder))
    return CachedTexts(files, encoder.width)


def batch_of(selection: Selection, name: str, options: MethodConfig, inputs: DataSpec, *, workers: int = 0) -> Batch:
    """The first step of a training, all samples of it."""
    prepare = METHODS[name].build_transform(inputs, options, max_regions=2)
    samples = PackedDataset(selection.shards, prepare, seed=0)
    sampler = BatchSampler(EpochOrder(tuple(SIZES.values()), 8, seed=0, shuffle_shards=2), 0, 1, rank=0, world_size=1)
    [host] = build_batches(samples, Collate(inputs), sampler, workers=workers, pin_memory=False)
    return to_device(host, Counts([len(host.keys)], [host.regions]), torch.device("cpu"), seed=3)


def relative_difference(found: Outcome, expected: Outcome) -> float:
    """Of all gradients together; those that are None must be the same ones."""
    pairs = [(found[1][name], value) for name, value in expected[1].items()]
    assert all((one is None) == (other is None) for one, other in pairs)
    whole = torch.cat([value.flatten() for _, value in pairs if value is not None])
    difference = torch.cat([(one - value).flatten() for one, value in pairs if one is not None and value is not None])
    return float(difference.norm() / whole.norm())


def in_double(batch: Batch, encoder: RegionEncoder, texts_of: Batch) -> Batch:
    """In float64; of embeddings those that the encoder gives in float64, from which the cached ones may be a rounding away."""
    fields = {name: getattr(batch, name) for name in batch.__slots__}
    floating = {
        name: value for name, value in fields.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    doubled = {name: value.double() for name, value in floating.items()}
    for name in sorted(doubled.keys() & {"texts", "region_texts"}):
        with torch.no_grad():
            exact = encoder.encode_text(getattr(texts_of, name))
        torch.testing.assert_close(doubled[name], exact, rtol=1e-5, atol=1e-6)
        doubled[name] = exact
    return replace(batch, **doubled)


@pytest.mark.parametrize("name", METHODS_WITH_TEXTS)
def test_loss_and_gradients_are_the_same(selection: Selection, cached: CachedTexts, name: str) -> None:
    options = parse(METHODS[name].config_type, METHODS_WITH_TEXTS[name], where="test")
    assert options.can_cache_texts
    plain = batch_of(selection, name, options, INPUTS)
    look_up_captions = batch_of(selection, name, options, replace(INPUTS, embedded=cached))
    assert plain.texts is not None and not plain.texts.is_floating_point()
    assert (
        look_up_captions.texts is not None
        and look_up_captions.texts.dtype == torch.float32
        and look_up_captions.keys == plain.keys
    )
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        found, expected = (
            outcome_of(
                METHODS[name].build(tiny_encoder(dtype=dtype), options, INPUTS),
                batch if dtype == torch.float32 else in_double(batch, tiny_encoder(), plain),
            )
            for batch in (look_up_captions, plain)
        )
        assert found[0] == pytest.approx(expected[0], rel=limit)
        assert relative_difference(found, expected) < limit


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip", {"train_text": True}),
        ("fineclip", {"train_text": True}),
        ("fineclip", {"weights": {"global": 0, "region": 0}}),
        ("clipself", {}),
        ("regionclip", {}),
        ("regionclip", {"targets": "pseudo", "weights": {"global": 0}}),
    ],
)
def test_who_has_no_use_for_embedded_texts(name: str, options: Mapping[str, Any]) -> None:
    assert not parse(METHODS[name].config_type, options, where="test").can_cache_texts


def test_workers_read_the_same_rows(selection: Selection, cached: CachedTexts) -> None:
    options, inputs = METHODS["fineclip"].config_type(), replace(INPUTS, embedded=cached)
    here, there = (batch_of(selection, "fineclip", options, inputs, workers=workers) for workers in (0, 2))
    for name in ("texts", "region_texts"):
        assert torch.equal(getattr(here, name), getattr(there, name))


def test_a_batch_without_samples_is_as_wide(cached: CachedTexts) -> None:
    batch = Collate(replace(INPUTS, embedded=cached))([])
    assert batch.texts.shape == batch.region_texts.shape == (0, cached.width)


def test_it_is_sent_without_its_open_files(cached: CachedTexts) -> None:
    before = cached("b-c-000001", ["one 1", "two 1"][:0])
    assert before.shape == (0, cached.width)
    texts = list(texts_of(sample("b-c-000001", regions=0)))
    expected = cached("b-c-000001", texts)
    content = pickle.dumps(cached)
    assert len(content) < 2000
    assert torch.equal(pickle.loads(content)("b-c-000001", texts), expected)
    assert expected.shape == (3, cached.width)


def test_a_caption_that_is_not_there_is_named(cached: CachedTexts) -> None:
    message = r"a\.safetensors: .*'a stranger'.* sample a-000001.*fineclip texts --force"
    with pytest.raises(ShardError, match=message):
        cached("a-000001", ["a stranger"])
    with pytest.raises(ShardError, match="shard elsewhere: .*--texts"):
        cached("elsewhere-000001", ["a stranger"])


def test_no_more_than_some_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fineclip.methods.texts.MOST_OPEN", 2)
    files = {name: tmp_path / f"{name}.safetensors" for name in "abcd"}
    for name, path in files.items():
        write_texts(path, [name], torch.full((1, 3), float(ord(name))).numpy(), text_tower="t")
    cached = CachedTexts(files, TextsFile(files["a"]).width)
    for name in "abcdabcd":
        assert cached(f"{name}-000000", [name]).tolist() == [[ord(name)] * 3]
    assert cached._open.cache_info().currsize == 2
