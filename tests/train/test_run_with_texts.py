"""A training that looks its captions up ends where one ends that embeds them, and takes no other encoder's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fineclip.config import EncoderConfig, WeightsConfig, parse
from fineclip.errors import ConfigError, ShardError
from fineclip.models.checkpoints import find_encoder, load_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.shards import read_manifest
from fineclip.stages.embed_texts import texts_shard
from fineclip.stages.weights import fetch_weights
from fineclip.train.run import RunConfig, train_run
from tests.helpers.packs import keys_of, sample, write_pack, write_select, write_world
from tests.helpers.training import TRAIN, lines_of
from tests.versions.worlds import ENCODER, WEIGHTS, write_encoder

CONFIG: EncoderConfig = parse(EncoderConfig, ENCODER, where="encoders")
SIZES = {"a": 6, "b": 3}
PACKED = [Path(f"data/pack/{shard}.json") for shard in SIZES]
TEXTS = [Path(f"data/texts/tiny/{shard}.json") for shard in SIZES]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with an encoder's weights, a selection, its packed shards and their texts."""
    monkeypatch.chdir(tmp_path)
    write_encoder()
    write_world(Path("data"), SIZES)
    for packed, texts in zip(PACKED, TEXTS, strict=True):
        embed(packed, texts)


def embed(packed: Path, texts: Path) -> None:
    texts_shard(packed, WEIGHTS, texts, CONFIG, batch_size=4, device="cpu")


def run(
    name: str,
    texts: list[Path],
    *,
    cached: bool = True,
    select: Path = Path("data/select.json"),
    options: dict[str, Any] | None = None,
    method: str = "fineclip",
) -> Path:
    values = {
        "method": method,
        "method_version": 1,
        "encoder": ENCODER,
        "options": options or {},
        "loader": {"cached_texts": cached},
        "train": TRAIN,
    }
    manifest = Path(f"results/set/{name}/train.json")
    train_run(select, PACKED, WEIGHTS, manifest, parse(RunConfig, values, where="train"), texts=texts)
    return manifest.parent


def test_cached_texts_give_equal_training(monkeypatch: pytest.MonkeyPatch) -> None:
    without = run("without", [], cached=False)
    monkeypatch.setattr(RegionEncoder, "encode_text", lambda *_: pytest.fail("a text was embedded"))
    found = run("with", TEXTS)
    for one, other in zip(lines_of(found / "metrics.jsonl"), lines_of(without / "metrics.jsonl"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert (found / "metrics.jsonl").read_text().count("\n") == 4
    for name in (
        "image",
        "dense",
    ):  # weights themselves are no measure: AdamW makes steps of a key's bias, which does nothing
        one, other, start = (embedding(folder, name) for folder in (found, without, None))
        assert (one - other).norm() < 1e-3 * (other - start).norm()


def embedding(folder: Path | None, name: str) -> Tensor:
    """What a trained encoder, or that which trainings start from, says of noise."""
    encoder = find_encoder(folder).load() if folder else load_encoder(CONFIG, Path("tiny.safetensors"))
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = getattr(encoder.eval(), f"encode_{name}")(pixels)
    return found


def test_they_are_inputs_and_those_of_other_shards_are_not() -> None:
    select = write_select(Path("data/few.json"), {"b": ["b-000000", "b-000002"]})
    manifest = read_manifest(run("few", [*TEXTS, Path("nowhere/c.json")], select=select) / "train.json")
    assert set(manifest.inputs) == {
        "data/few.json",
        "data/pack/b.json",
        WEIGHTS.as_posix(),
        "data/texts/tiny/b.json",
    }
    with pytest.raises(ShardError, match="1 shards without a manifest of texts; the first is b"):
        run("lacking", TEXTS[:1])


def shift(name: str) -> None:
    """Other weights in the encoder's place."""
    weights = load_file("tiny.safetensors")
    weights[name] = weights[name] + 1e-3
    save_file(weights, "tiny.safetensors")
    WEIGHTS.with_name(".tiny.sha256").unlink()  # the hash of the first fetch
    fetch_weights("encoders", "tiny", WEIGHTS, WeightsConfig(path="tiny.safetensors"))


def test_another_text_tower_is_refused() -> None:
    shift("text_projection")
    with pytest.raises(ShardError, match=r"a\.safetensors: holds embeddings by a text tower of hash"):
        run("other", TEXTS)


def test_another_vision_tower_is_not_asked_about() -> None:
    shift("visual.proj")
    assert (run("other", TEXTS) / "train.json").is_file()


def test_another_pack_is_refused() -> None:
    write_pack(Path("data/pack"), "a", [sample(key, regions=1) for key in keys_of("a", SIZES["a"])])
    with pytest.raises(ShardError, match=r"but not from data/pack/a\.json in its current form"):
        run("other", TEXTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"texts": []}, r"fineclip .*loader\.cached_texts true needs .*--texts FILE"),
        ({"cached": False}, r"fineclip .*loader\.cached_texts false .*omit --texts FILE"),
        ({"options": {"train_text": True}}, r"fineclip .*loader\.cached_texts true .*omit --texts FILE"),
        ({"method": "clipself"}, r"clipself .*loader\.cached_texts true .*omit --texts FILE"),
    ],
)
def test_texts_go_to_who_takes_them(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("wrong", **({"texts": TEXTS} | values))


def test_who_trains_its_text_tower_embeds_under_the_same_setting() -> None:
    assert (run("trained", [], options={"train_text": True}) / "train.json").is_file()
