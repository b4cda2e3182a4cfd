"""A published encoder on the miniature: exact scores, any batch size, one job for all benchmarks."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import normalize

from fineclip.boxes import fractions
from fineclip.config import BenchmarkConfig, EncoderConfig, parse
from fineclip.errors import ConfigError, DataError, EvaluationError, ShardError
from fineclip.evals import embed, evaluate
from fineclip.evals.embed import Embedder
from fineclip.evals.evaluate import discard_scores, evaluate_run
from fineclip.evals.index import index_benchmark, read_index
from fineclip.models.checkpoints import WEIGHTS, find_encoder, save_encoder
from fineclip.models.encoder import RegionEncoder
from fineclip.models.features import FeatureEncoder
from fineclip.models.images import SQUASH, normalize_pixels
from fineclip.models.shipped import shipped
from fineclip.shards import Job, read_manifest, sha256_of
from fineclip.shards.images import decode
from tests.helpers.encoders import tiny_encoder

IMAGES = 12
KINDS = ("boxes", "retrieval")


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

    @property
    def manifest(self) -> Path:
        return self.run.parent / "evals.json"

    def evaluate(self, kind: str, *, batch_size: int = 5, **keys: Any) -> dict[str, Any]:
        """The scores on one benchmark, evaluated alone."""
        self.evaluate_all({kind: section(kind, **keys)}, batch_size=batch_size)
        return json.loads(self.output(kind).read_text())

    def evaluate_all(self, benchmarks: Mapping[str, BenchmarkConfig] | None = None, *, batch_size: int = 5) -> None:
        chosen = {kind: section(kind) for kind in KINDS} if benchmarks is None else benchmarks
        indexes = [self.index(kind) for kind in chosen]
        evaluate_run(self.run, indexes, self.manifest, chosen, batch_size=batch_size, device="cpu")


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
    save_encoder(encoder, run.parent, config=config, vocabulary=shipped("encoder/bpe.txt.gz"))
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
    encoder, tokenize = shared.encoder, find_encoder(shared.run.parent).tokenizer()
    index = read_index(shared.index("boxes"), section("boxes"))
    texts = [f"a photo of {'a' if c.is_thing else 'the'} {c.name}" for c in index.classes]
    texts = [text.replace(" a arrow", " an arrow").replace(" a umbrella", " an umbrella") for text in texts]
    hits: dict[int, list[bool]] = {}
    with torch.no_grad():
        classes = normalize(encoder.encode_text(tokenize(texts)).double(), dim=-1)
        for row in index.images:
            content = Path(row.file).read_bytes()[row.offset : row.offset + row.size]
            image = normalize_pixels(SQUASH(decode(content), 96))[None]
            for box in row.boxes:
                sides = torch.tensor([list(fractions(box.box, row.width, row.height))])
                region = encoder.encode_regions(image, sides, torch.tensor([0])).double()
                order = (region @ classes.T)[0].argsort(descending=True)
                hits.setdefault(box.label, []).append(box.label in order[:5].tolist())
    expected = 100 * np.mean([np.mean(found) for found in hits.values()])
    scores = {score["metric"]: score["value"] for score in shared.evaluate("boxes")["scores"]}
    assert scores["all/top5"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["boxes", "retrieval"])
def test_batch_size_changes_no_result(shared: World, kind: str) -> None:
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
        tokenize = find_encoder(shared.run.parent).tokenizer()
        encoder = FeatureEncoder(shared.encoder, tokenize, image_size=96, batch_size=batch_size, device="cpu")
        embedder = Embedder(encoder, threads)
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
    with pytest.raises(EvaluationError, match="image_size 50 px .* the encoder's patch of 12 x 12 px"):
        shared.evaluate("retrieval", image_size=50)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that encoders were loaded from."""
    folders: list[Path] = []
    load = embed.find_encoder
    monkeypatch.setattr(embed, "find_encoder", lambda folder: folders.append(folder) or load(folder))
    return folders


def test_one_job_evaluates_all_benchmarks_with_one_encoder(world: World, loaded: list[Path]) -> None:
    world.evaluate_all()
    assert loaded == [world.run.parent]
    made = read_manifest(world.manifest)
    assert made.stage == "evaluate"
    assert made.outputs == {f"evals/{kind}.json": sha256_of(world.output(kind)) for kind in KINDS}
    assert set(made.inputs) == {path.as_posix() for path in (world.run, *map(world.index, KINDS))}
    assert (made.read, made.kept) == (2, 2)
    together = {kind: world.output(kind).read_text() for kind in KINDS}
    for kind in KINDS:
        discard_scores(world.manifest, KINDS)
        world.evaluate(kind)
        assert world.output(kind).read_text() == together[kind]


def test_scores_that_are_up_to_date_are_kept(world: World, loaded: list[Path]) -> None:
    world.evaluate_all()
    files, folder = [world.output(kind) for kind in KINDS], world.manifest.with_suffix("")
    texts, written = [path.read_text() for path in files], [path.stat().st_mtime_ns for path in (*files, folder)]
    world.manifest.unlink()  # as Snakemake does before a job
    world.evaluate_all(batch_size=3)
    assert [path.stat().st_mtime_ns for path in (*files, folder)] == written
    assert len(loaded) == 1
    discard_scores(world.manifest, KINDS)
    world.evaluate_all()
    assert [path.read_text() for path in files] == texts
    assert len(loaded) == 2
    publish_run(world.run, world.folder, seed=2)
    inputs = json.loads(world.output("boxes").read_text())["inputs"]
    world.evaluate_all()
    assert json.loads(world.output("boxes").read_text())["inputs"] != inputs
    assert len(loaded) == 3


def test_a_new_benchmark_computes_only_its_own_scores(world: World, evaluated_on: list[str]) -> None:
    world.evaluate("boxes")
    written = world.output("boxes").stat().st_mtime_ns
    world.evaluate_all()
    assert evaluated_on == ["boxes", "retrieval"]
    assert world.output("boxes").stat().st_mtime_ns == written
    assert list(read_manifest(world.manifest).outputs) == ["evals/boxes.json", "evals/retrieval.json"]
    world.evaluate_all({"boxes": section("boxes"), "retrieval": section("retrieval", image_size=48)})
    assert evaluated_on == ["boxes", "retrieval", "retrieval"]
    world.evaluate("boxes")  # without retrieval, whose scores stay
    assert list(read_manifest(world.manifest).outputs) == ["evals/boxes.json"]
    assert evaluated_on == ["boxes", "retrieval", "retrieval"]
    assert world.output("retrieval").is_file()


@pytest.fixture
def evaluated_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmarks that were computed, in order."""
    names: list[str] = []
    compute = evaluate.score_record

    def counted(*given: Any, name: str) -> dict[str, Any]:
        names.append(name)
        return compute(*given, name=name)

    monkeypatch.setattr(evaluate, "score_record", counted)
    return names


def test_versions_are_part_of_the_key(world: World, evaluated_on: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    world.evaluate_all()
    declared = evaluate.benchmark_of
    monkeypatch.setattr(
        evaluate, "benchmark_of", lambda kind: replace(declared(kind), version=7) if kind == "boxes" else declared(kind)
    )
    world.evaluate_all()
    assert evaluated_on == ["boxes", "retrieval", "boxes"]
    assert json.loads(world.output("boxes").read_text())["version"] == 7
    monkeypatch.setattr(evaluate, "VERSION", 9)
    world.evaluate_all()
    assert evaluated_on == ["boxes", "retrieval", "boxes", "boxes", "retrieval"]
    assert json.loads(world.output("retrieval").read_text())["evaluate_version"] == 9


@pytest.mark.parametrize("failing", KINDS)
@pytest.mark.parametrize("error", [DataError("an image is gone"), RuntimeError("out of memory")])
def test_a_failing_benchmark_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: str, error: Exception
) -> None:
    """Its earlier scores are of another key and do not stay; the next attempt computes it alone."""
    other = next(kind for kind in KINDS if kind != failing)
    world.evaluate_all({kind: section(kind, image_size=48) for kind in KINDS})
    compute = evaluate.score_record

    def broken(*given: Any, name: str) -> dict[str, Any]:
        if name == failing:
            raise error
        return compute(*given, name=name)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "score_record", broken)
        with pytest.raises(EvaluationError, match=f"1 of 2 benchmarks failed: {failing}: {error}"):
            world.evaluate_all()
    assert not world.manifest.exists()
    assert not world.output(failing).exists()
    assert json.loads(world.output(other).read_text())["protocol"]["image_size"] == 96
    names: list[str] = []
    monkeypatch.setattr(evaluate, "score_record", lambda *given, name: names.append(name) or compute(*given, name=name))
    world.evaluate_all()
    assert names == [failing]
    assert set(read_manifest(world.manifest).outputs) == {"evals/boxes.json", "evals/retrieval.json"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Lower runtime.evaluate_batch_size"),
        (OSError(5, "Input/output error", "val2017/1.jpg"), "val2017/1.jpg: refused: Input/output error"),
    ],
    ids=["memory", "disk"],
)
def test_exhausted_memory_and_refusals_are_no_bugs(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    def fail(*_: Any, name: str) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(evaluate, "score_record", fail)
    with pytest.raises(EvaluationError, match=said):
        world.evaluate_all()
    assert not any(record.exc_info for record in caplog.records)
    assert not world.manifest.exists()


def test_the_runtime_reaches_the_encoder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch size, device and threads as they were given; the evaluation itself is cut off."""
    given: list[dict[str, Any]] = []

    def load(run: Path, **runtime: Any) -> None:
        given.append({"run": run} | runtime)
        raise DataError("cut off")

    monkeypatch.setattr(embed, "published_embedder", load)
    with pytest.raises(DataError, match="cut off"):
        evaluate_run(
            world.run, [world.index("boxes")], world.manifest, {"boxes": section("boxes")},
            batch_size=3, device="mps", threads=5,
        )  # fmt: skip
    assert given == [{"run": world.run, "batch_size": 3, "device": "mps", "threads": 5}]


def test_temporary_files_of_a_killed_process_are_removed(world: World) -> None:
    folder = world.output("boxes").parent
    folder.mkdir()
    orphan = folder / ".boxes.json.far-away.1.0a0b0c0d.tmp"
    orphan.write_text("half")
    os.utime(orphan, (0, 0))
    world.evaluate("boxes")
    assert sorted(path.name for path in folder.iterdir()) == ["boxes.json"]


def test_scores_that_were_edited_are_computed_again(world: World, evaluated_on: list[str]) -> None:
    world.evaluate_all()
    text = world.output("boxes").read_text()
    world.output("boxes").write_text(text.replace('"n": ', '"n": 1'))
    world.evaluate_all()
    assert world.output("boxes").read_text() == text
    assert evaluated_on == ["boxes", "retrieval", "boxes"]
    world.output("retrieval").unlink()
    world.evaluate_all()
    assert evaluated_on == ["boxes", "retrieval", "boxes", "retrieval"]


def test_indexes_that_are_not_those_of_the_benchmarks_are_refused(world: World) -> None:
    chosen = {kind: section(kind) for kind in KINDS}
    for indexes in ([world.index("boxes")], [*map(world.index, KINDS), world.index("boxes")], []):
        with pytest.raises(ConfigError, match="--index: expected one manifest for each benchmark .boxes, retrieval."):
            evaluate_run(world.run, indexes, world.manifest, chosen, device="cpu")


def test_edited_weights_are_refused(world: World) -> None:
    (world.run.parent / WEIGHTS).write_bytes(b"another run's")
    with pytest.raises(ShardError, match="model.safetensors: is not the one that train.json names"):
        world.evaluate("boxes")
    assert not world.output("boxes").exists()


def test_a_file_of_the_encoder_that_the_run_did_not_write_is_refused(world: World) -> None:
    """A vocabulary beside the weights would be used in place of the run's."""
    files = [world.run.parent / name for name in (WEIGHTS, "open_clip_config.json", "config.yaml")]
    Job(world.run, stage="train", version=1, config={"seed": 1}, inputs={}).finish(files)
    with pytest.raises(ShardError, match="bpe.txt.gz: is not the one that train.json names"):
        world.evaluate("boxes")


def test_absent_weights_are_named(world: World) -> None:
    (world.run.parent / WEIGHTS).unlink()
    with pytest.raises(ShardError, match=r"model.safetensors: is missing"):
        world.evaluate("boxes")


def test_up_to_date_scores_need_no_torch(shared: World) -> None:
    made = shared.evaluate("boxes")
    shared.manifest.unlink()
    code = """
import json, sys
from pathlib import Path
from fineclip.config import BenchmarkConfig, parse
from fineclip.evals.evaluate import discard_scores, evaluate_run
run, index, manifest, config = sys.argv[1:]
evaluate_run(Path(run), [Path(index)], Path(manifest), {"boxes": parse(BenchmarkConfig, json.loads(config), where="")})
sys.exit("torch" in sys.modules)
"""
    paths = [shared.run, shared.index("boxes"), shared.manifest]
    config = section("boxes").model_dump_json(exclude_defaults=True)
    assert subprocess.run([sys.executable, "-c", code, *map(str, paths), config], check=False).returncode == 0
    assert json.loads(shared.output("boxes").read_text()) == made
    assert shared.manifest.is_file()


def test_an_image_that_has_changed_is_refused(world: World) -> None:
    tar = world.index("boxes").with_suffix(".tar")
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(EvaluationError, match="boxes.tar: boxes-000000 is not the image that was indexed"):
        world.evaluate("boxes")


def test_the_index_of_another_benchmark_is_refused(world: World) -> None:
    world.index("retrieval").replace(world.index("boxes"))
    with pytest.raises(EvaluationError, match="not the index of"):
        world.evaluate("boxes")


@pytest.mark.parametrize("kind", ["openai", "eva"])
def test_other_towers_in_training_mode(shared: World, tmp_path: Path, kind: str) -> None:
    """Boxes of a tower with a class token; the embedder itself sees to evaluation mode."""
    encoder = tiny_encoder(tmp_path, kind).train()
    index = read_index(shared.index("boxes"), section("boxes"))
    tokenize = lambda texts: torch.ones(len(texts), 77, dtype=torch.long)  # noqa: E731
    embedder = Embedder(FeatureEncoder(encoder, tokenize, image_size=32, device="cpu"))
    regions = embedder.regions(index.images, size=32)
    assert regions.shape == (sum(len(row.boxes) for row in index.images), 32)
    assert np.isfinite(regions).all()
    assert not encoder.training


def test_threads_and_batch_size_of_a_published_encoder(shared: World) -> None:
    before = torch.get_num_threads()
    try:
        embedder = embed.published_embedder(shared.run, batch_size=3, device="cpu", threads=2)
        assert (torch.get_num_threads(), embedder.threads, embedder.encoder.batch_size) == (2, 2, 3)
        assert embedder.image_size == 96
    finally:
        torch.set_num_threads(before)
