"""A published encoder on a drawn benchmark: exact numbers, the same for every batch size, made once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import normalize

from fineclip.config import BenchmarkConfig, EncoderConfig, parse
from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.evals import embedding
from fineclip.evals.benchmark import read_index
from fineclip.evals.embedding import Embedder
from fineclip.evals.evaluate import evaluate_run
from fineclip.evals.sources import index_benchmark
from fineclip.models.checkpoint import WEIGHTS, publish, published_tokenizer
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import decode, normalize_pixels, squash
from fineclip.models.shipped import shipped
from fineclip.shards import Job, forget
from tests.helpers.encoders import tiny_encoder

IMAGES = 12


def section(kind: str, **keys: Any) -> BenchmarkConfig:
    source = {"layout": "miniature", "seed": 3, "images": IMAGES}
    return parse(BenchmarkConfig, {"kind": kind, "source": source} | keys, where="benchmarks")


class World:
    """A folder with a run and the indexes of two benchmarks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "results/small/run-s0/train.json"
        self.encoder = publish_run(self.run, folder, seed=1)
        for kind in ("boxes", "retrieval"):
            index_benchmark(self.index(kind), section(kind))

    def index(self, kind: str) -> Path:
        return self.folder / f"data/small/index/{kind}.json"

    def output(self, kind: str) -> Path:
        return self.run.parent / f"evals/{kind}.json"

    def evaluate(self, kind: str, *, batch_size: int = 5, **keys: Any) -> dict[str, Any]:
        evaluate_run(
            self.run,
            self.index(kind),
            self.output(kind),
            section(kind, **keys),
            name=kind,
            batch_size=batch_size,
            device="cpu",
        )
        return json.loads(self.output(kind).read_text())


def publish_run(run: Path, folder: Path, *, seed: int) -> RegionEncoder:
    """The architecture of the shipped encoder, which has a vocabulary, with weights of chance."""
    config = EncoderConfig(
        model="shipped:encoder/mini.json",
        weights={"shipped": "encoder/model.safetensors"},
        tokenizer={"shipped": "encoder/bpe.txt.gz"},
        head="mean",
        image_size=96,
        crop_size=48,
    )
    encoder = random_encoder(config, seed)
    publish(encoder, run.parent, config=config, vocabulary=shipped("encoder/bpe.txt.gz"))
    (run.parent / "config.yaml").write_text(yaml.safe_dump({"encoder": config.model_dump(mode="json")}))
    files = [run.parent / name for name in (WEIGHTS, "open_clip_config.json", "bpe.txt.gz", "config.yaml")]
    Job(run, stage="train", version=1, config={"seed": seed}, inputs={}).finish(files)
    return encoder.eval()


def random_encoder(config: EncoderConfig, seed: int) -> RegionEncoder:
    from fineclip.models.encoder import build_encoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(config)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """For tests that change nothing in it."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_contract(shared: World) -> None:
    boxes, retrieval = shared.evaluate("boxes", candidates="own_kind"), shared.evaluate("retrieval")
    assert [score["metric"] for score in boxes["scores"]] == [
        f"{kind}/top{k}" for kind in ("things", "stuff", "all") for k in (1, 5)
    ]
    assert [score["metric"] for score in retrieval["scores"]] == [
        f"{way}/R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ]
    for found, name in ((boxes, "boxes"), (retrieval, "retrieval")):
        assert found["benchmark"] == name
        assert found["version"] == 1
        assert set(found["inputs"]) == {shared.run.as_posix(), shared.index(name).as_posix()}
        assert {score["metric"] for score in found["scores"]} == set(found["chance"])
        assert all(0 <= score["value"] <= 100 for score in found["scores"])
    index = read_index(shared.index("boxes"), section("boxes"))
    numbers = {score["metric"]: score["n"] for score in boxes["scores"]}
    assert (
        numbers["all/top1"] == numbers["things/top1"] + numbers["stuff/top1"] == sum(len(r.boxes) for r in index.images)
    )
    assert boxes["chance"]["things/top1"] == 5
    assert retrieval["chance"]["text_to_image/R@1"] == pytest.approx(100 / IMAGES)
    assert boxes["config"]["candidates"] == "own_kind"
    assert boxes["protocol"]["image_size"] == 96


def test_scores_are_those_of_the_encoder_itself(shared: World) -> None:
    """Worked out again image by image and class by class, without batches."""
    encoder, tokenize = shared.encoder, published_tokenizer(shared.run.parent)
    index = read_index(shared.index("boxes"), section("boxes"))
    texts = [f"a photo of {'a' if c.is_thing else 'the'} {c.name}" for c in index.classes]
    texts = [text.replace(" a arrow", " an arrow").replace(" a umbrella", " an umbrella") for text in texts]
    hits: dict[int, list[bool]] = {}
    with torch.no_grad():
        classes = normalize(encoder.encode_text(tokenize(texts)).double(), dim=-1)
        for row in index.images:
            content = Path(row.file).read_bytes()[row.offset : row.offset + row.size]
            image = normalize_pixels(squash(decode(content), 96))[None]
            for box in row.boxes:
                sides = torch.tensor(
                    [[box["x1"] / row.width, box["y1"] / row.height, box["x2"] / row.width, box["y2"] / row.height]]
                )
                region = encoder.encode_regions(image, sides, torch.tensor([0])).double()
                order = (region @ classes.T)[0].argsort(descending=True)
                hits.setdefault(box["label"], []).append(box["label"] in order[:5].tolist())
    expected = 100 * np.mean([np.mean(found) for found in hits.values()])
    scores = {score["metric"]: score["value"] for score in shared.evaluate("boxes")["scores"]}
    assert scores["all/top5"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["boxes", "retrieval"])
def test_the_batch_size_changes_nothing(shared: World, kind: str) -> None:
    index = read_index(shared.index(kind), section(kind))
    texts = [
        "a red star on the sand",
        "a ball",
        "a red star on the sand",
        "a photo of the sky",
        "a blue cup by the wall",
    ]
    parts = []
    for batch_size, threads in ((1, 1), (5, 3), (64, 1)):
        tokenize = published_tokenizer(shared.run.parent)
        embedder = Embedder(
            shared.encoder, tokenize, image_size=96, batch_size=batch_size, device="cpu", threads=threads
        )
        rows = embedder.regions(index.images, size=96) if kind == "boxes" else embedder.images(index.images, size=96)
        parts.append((rows, embedder.texts(texts)))
    for rows, encoded in parts:
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(rows, parts[0][0], atol=2e-6)
        np.testing.assert_allclose(encoded, parts[0][1], atol=2e-6)
        np.testing.assert_array_equal(encoded[0], encoded[2])


def test_another_image_size_is_used(shared: World) -> None:
    assert shared.evaluate("retrieval", image_size=48)["protocol"]["image_size"] == 48
    with pytest.raises(ConfigError, match="image_size 50 px .* whole patches of the encoder's 12 x 12 px"):
        shared.evaluate("retrieval", image_size=50)


def test_what_lies_there_is_not_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = embedding.load_published
    monkeypatch.setattr(embedding, "load_published", lambda folder: loaded.append(folder) or load(folder))
    first = world.evaluate("retrieval")
    text = world.output("retrieval").read_text()
    world.output("retrieval").unlink()  # as Snakemake does before a job
    world.evaluate("retrieval", batch_size=3)
    assert world.output("retrieval").read_text() == text
    assert len(loaded) == 1
    forget(world.output("retrieval"))
    world.evaluate("retrieval")
    assert world.output("retrieval").read_text() == text
    assert len(loaded) == 2
    publish_run(world.run, world.folder, seed=2)
    assert world.evaluate("retrieval")["inputs"] != first["inputs"]
    assert len(loaded) == 3
    world.evaluate("retrieval", image_size=48)
    assert len(loaded) == 4


def test_weights_that_the_manifest_does_not_know_are_refused(world: World) -> None:
    (world.run.parent / WEIGHTS).write_bytes(b"another run's")
    with pytest.raises(ShardError, match="model.safetensors: is not the one that train.json names"):
        world.evaluate("boxes")
    assert not world.output("boxes").exists()


def test_weights_that_are_gone_are_said_to_be(world: World) -> None:
    (world.run.parent / WEIGHTS).unlink()
    with pytest.raises(ShardError, match=r"model.safetensors: is gone"):
        world.evaluate("boxes")


def test_what_lies_there_is_found_without_torch(shared: World) -> None:
    made = shared.evaluate("boxes")
    code = """
import sys
from pathlib import Path
from fineclip.config import BenchmarkConfig, parse
from fineclip.evals.evaluate import evaluate_run
run, index, output, config = sys.argv[1:]
evaluate_run(Path(run), Path(index), Path(output), parse(BenchmarkConfig, __import__("json").loads(config), where=""), name="boxes")
sys.exit("torch" in sys.modules)
"""
    shared.output("boxes").unlink()
    paths = [shared.run, shared.index("boxes"), shared.output("boxes")]
    config = section("boxes").model_dump_json(exclude_defaults=True)
    assert subprocess.run([sys.executable, "-c", code, *map(str, paths), config], check=False).returncode == 0
    assert json.loads(shared.output("boxes").read_text()) == made


def test_an_image_that_has_changed_is_refused(world: World) -> None:
    tar = world.index("boxes").with_suffix(".tar")
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match="boxes.tar: boxes-000000 is not the image that was indexed"):
        world.evaluate("boxes")


def test_the_index_of_another_benchmark_is_refused(world: World) -> None:
    world.index("retrieval").replace(world.index("boxes"))
    with pytest.raises(ShardError, match="not the index of"):
        world.evaluate("boxes")


@pytest.mark.parametrize("kind", ["openai", "eva"])
def test_other_towers_in_training_mode(shared: World, tmp_path: Path, kind: str) -> None:
    """Boxes of a tower with a class token; the embedder itself sees to evaluation mode."""
    encoder = tiny_encoder(tmp_path, kind).train()
    index = read_index(shared.index("boxes"), section("boxes"))
    embedder = Embedder(
        encoder, lambda texts: torch.ones(len(texts), 77, dtype=torch.long), image_size=32, device="cpu"
    )
    regions = embedder.regions(index.images, size=32)
    assert regions.shape == (sum(len(row.boxes) for row in index.images), 32)
    assert np.isfinite(regions).all()
    assert not encoder.training
