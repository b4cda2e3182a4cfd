"""Plan: shards of a scale, planned benchmarks and weights, and exactly which keys enter the identity of each job."""

import json
import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fineclip import plan as module
from fineclip.config import load, merge
from fineclip.errors import ConfigError, DataError
from fineclip.plan import Plan, run_this_checkout
from fineclip.stages.declaration import stages
from fineclip.versions import version_of

ROOT = Path(__file__).parents[1]
GONE = {"kind": "retrieval", "source": {"layout": "coco_captions", "root": "gone"}}
EXTERNAL = {
    "detect": {"released": {"engine": "boxes_json", "path": "boxes.json"}},
    "caption": {"released": {"engine": "captions_json", "path": "captions.json"}},
}
VARIANT = {"method": "fineclip", "options": {"weights": {"global": 0}}}
PLANNED = {
    "scales": ["500", "2000"],
    "regions": "yolov9t.mini",
    "captions": "blip2.mini",
    "encoders": ["mini"],
    "methods": ["clip", "clipself"],
    "variants": ["distill"],
    "seeds": [0, 7],
    "benchmarks": ["boxes", "retrieval"],
}


def values_of(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `config.yaml` with external annotations, a variant and the runs of `PLANNED`, and changes over them."""
    values = deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))
    values["scales"] = {"500": {"images": 500}, "2000": {"images": 2000}}
    values = merge(values, {**EXTERNAL, "variants": {"distill": VARIANT}, "plan": PLANNED})
    for change in changes:
        values = merge(values, change)
    return values


def plan_of(*changes: Mapping[str, Any]) -> Plan:
    return Plan(load(values_of(*changes)))


CLIP = {f"train clip-mini-{scale}-s{seed}" for scale in (500, 2000) for seed in (0, 7)}
CLIPSELF = {f"train clipself-mini-{scale}-s{seed}" for scale in (500, 2000) for seed in (0, 7)}
DISTILL = {f"train fineclip-mini-{scale}-distill-s{seed}" for scale in (500, 2000) for seed in (0, 7)}
TRAINED = CLIP | CLIPSELF | DISTILL
PRETRAINED = {"pretrained pretrained-mini"}
SELECT = {"select 500", "select 2000"}

JOBS: dict[str, tuple[str, dict[str, str]]] = {
    "source": ("source", {"shard": "miniature-0000"}),
    "list": ("list", {}),
    "filter": ("filter", {"shard": "miniature-0000"}),
    "select 500": ("select", {"scale": "500"}),
    "select 2000": ("select", {"scale": "2000"}),
    "given detect": ("given", {"kind": "detect", "name": "released"}),
    "given caption": ("given", {"kind": "caption", "name": "released"}),
    "detect mini": ("detect", {"regions": "yolov9t.mini"}),
    "detect released": ("detect", {"regions": "released"}),
    "caption mini": ("caption", {"captions": "blip2.mini"}),
    "caption template": ("caption", {"captions": "template"}),
    "caption released": ("caption", {"captions": "released"}),
    "pack": ("pack", {}),
    "card": ("card", {}),
    "concepts": ("concepts", {"scale": "500"}),
    "texts": ("texts", {"encoder": "mini"}),
    "weights detect": ("weights", {"kind": "detect", "name": "yolov9t.mini"}),
    "weights caption": ("weights", {"kind": "caption", "name": "blip2.mini"}),
    "weights encoders": ("weights", {"kind": "encoders", "name": "mini"}),
    "weights tokenizers": ("weights", {"kind": "tokenizers", "name": "mini"}),
    "index boxes": ("index", {"benchmark": "boxes"}),
    "index retrieval": ("index", {"benchmark": "retrieval"}),
    "evaluate": ("evaluate", {"run": "pretrained-mini"}),
    "report": ("report", {}),
    **{job: ("train", {"run": job.removeprefix("train ")}) for job in sorted(TRAINED)},
    "pretrained pretrained-mini": ("pretrained", {"run": "pretrained-mini"}),
}


def sections(plan: Plan) -> dict[str, str]:
    """The identity of each job, as its rule passes it on."""
    return {job: plan.key(stage, **names) for job, (stage, names) in JOBS.items()}


def changed_by(*changes: Mapping[str, Any]) -> set[str]:
    """The jobs whose identity a change of the configuration alters."""
    before, after = sections(plan_of()), sections(plan_of(*changes))
    return {job for job in JOBS if before[job] != after[job]}


# --- what identifies a job


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({"dataset": {"name": "other"}}, set()),
        ({"source": {"seed": 3}}, {"source", "list"}),
        ({"source": {"images": 1300}}, {"source", "list"}),
        ({"source": {"images_per_shard": 325}}, {"source", "list"}),
        ({"filter": {"min_side_px": 95}}, {"filter"}),
        ({"filter": {"boilerplate": ["x"]}}, {"filter"}),
        ({"select": {"exclude": ["boxes"]}}, SELECT),
        ({"scales": {"500": {"images": 501}}}, {"select 500"}),
        ({"scales": {"2000": {"allow_fewer": True}}}, {"select 2000"}),
        ({"scales": {"500": {"shard_margin": 0.3}}}, set()),
        ({"scales": {"500": {"expected_keep_rate": 0.3}}}, set()),
        ({"detect": {"yolov9t.mini": {"confidence": 0.3}}}, {"detect mini"}),
        ({"detect": {"yolov9t.mini": {"max_regions": 3}}}, {"detect mini"}),
        ({"detect": {"yolov9t.mini": {"weights": {"sha256": "0" * 64}}}}, {"detect mini", "weights detect"}),
        ({"detect": {"released": {"path": "other.json"}}}, {"detect released", "given detect"}),
        ({"detect": {"released": {"labels": False}}}, {"detect released", "given detect"}),
        ({"detect": {"released": {"score": None}}}, {"detect released", "given detect"}),
        ({"detect": {"released": {"max_regions": 3}}}, {"detect released"}),
        ({"detect": {"released": {"min_side_px": 3.0}}}, {"detect released"}),
        ({"detect": {"released": {"max_side_px": 90.0}}}, {"detect released"}),
        ({"caption": {"blip2.mini": {"context": 1.3}}}, {"caption mini"}),
        ({"caption": {"blip2.mini": {"weights": {"sha256": "0" * 64}}}}, {"caption mini", "weights caption"}),
        ({"caption": {"template": {"template": "a {label}"}}}, {"caption template"}),
        ({"caption": {"released": {"path": "other.json"}}}, {"caption released", "given caption"}),
        ({"encoders": {"mini": {"image_size": 64}}}, {"texts"} | TRAINED | PRETRAINED),
        (
            {"encoders": {"mini": {"weights": {"sha256": "0" * 64}}}},
            {"texts", "weights encoders"} | TRAINED | PRETRAINED,
        ),
        (
            {"encoders": {"mini": {"tokenizer": {"sha256": "0" * 64}}}},
            {"texts", "weights tokenizers"} | TRAINED | PRETRAINED,
        ),
        ({"concepts": {"max_concepts": 5}}, {"concepts"}),
        ({"methods": {"clipself": {"wise_ft_alpha": 0.5}}}, CLIPSELF),
        ({"methods": {"fineclip": {"train_text": False}}}, DISTILL),
        ({"methods": {"regionclip": {"temperature": 0.5}}}, set()),
        ({"variants": {"distill": {"options": {"weights": {"global": 0.5}}}}}, DISTILL),
        ({"variants": {"distill": {"train": {"learning_rate": 0.5}}}}, DISTILL),
        ({"loader": {"image_backend": "pillow"}}, TRAINED),
        ({"train": {"learning_rate": 0.5}}, TRAINED),
        ({"train": {"batch_size": 31}}, TRAINED),
        ({"benchmarks": {"boxes": {"prompts": "vild"}}}, {"index boxes", "evaluate"}),
        ({"benchmarks": {"retrieval": {"image_size": 64}}}, {"index retrieval", "evaluate"}),
        ({"plan": {"shard_margin": 0.5}}, set()),
        ({"plan": {"expected_keep_rate": 0.5}}, set()),
        ({"plan": {"benchmarks": ["boxes"]}}, {"evaluate"}),
        ({"plan": {"seeds": [0, 7, 9]}}, set()),
        ({"substitutes": {"detect": "released"}}, set()),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_key_is_part_of_these_identities_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], jobs: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.json").touch()
    assert changed_by(change) == jobs | {"report"}  # which shows the whole configuration


def test_resources_are_part_of_no_identity() -> None:
    change = {
        "device": "cpu",
        "detect_batch_size": 3,
        "num_workers": 2,
        "memory_gb": 1,
        "crop_micro_batch_size": 2,
        "compile": True,
    }
    assert changed_by({"runtime": change}) == set()


@pytest.mark.parametrize(
    ("package", "name", "jobs"),
    [
        ("stages", "source", {"source"}),
        ("stages", "list", {"list"}),
        ("stages", "filter", {"filter"}),
        ("stages", "select", SELECT),
        ("stages", "given", {"given detect", "given caption"}),
        ("stages", "detect", {"detect mini", "detect released"}),
        ("stages", "caption", {"caption mini", "caption template", "caption released"}),
        ("stages", "pack", {"pack"}),
        ("stages", "card", {"card"}),
        ("stages", "concepts", {"concepts"}),
        ("stages", "texts", {"texts"}),
        ("stages", "weights", {"weights detect", "weights caption", "weights encoders", "weights tokenizers"}),
        ("evals", "index", {"index boxes", "index retrieval"}),
        ("evals", "evaluate", {"evaluate"}),
        ("evals/benchmarks", "boxes", {"evaluate"}),
        ("evals/benchmarks", "retrieval", {"evaluate"}),
        ("train", "run", TRAINED | PRETRAINED),
        ("methods", "clip", CLIP),
        ("methods", "clipself", CLIPSELF),
        ("methods", "fineclip", DISTILL),
        ("methods", "regionclip", set()),
        ("report", "page", {"report"}),
    ],
)
def test_a_version_is_part_of_these_identities_alone(
    monkeypatch: pytest.MonkeyPatch, package: str, name: str, jobs: set[str]
) -> None:
    before = sections(plan_of())
    raised = {
        stage: replace(declared, version=declared.version + (package == "stages" and stage == name))
        for stage, declared in stages().items()
    }
    monkeypatch.setattr(module, "stages", lambda: raised)
    monkeypatch.setattr(module, "version_of", lambda *of: version_of(*of) + (of == (package, name)))
    after = sections(plan_of())
    assert {job for job in JOBS if before[job] != after[job]} == jobs


def test_each_job_has_an_identity_of_its_own_kind() -> None:
    found = {job: json.loads(text) for job, text in sections(plan_of()).items()}
    assert found["filter"] == {"min_side_px": 96, "version": stages()["filter"].version}
    assert found["select 500"] == {
        "exclude": ["boxes", "retrieval"],
        "scale": {"allow_fewer": False, "images": 500},
        "version": stages()["select"].version,
    }
    assert found["given detect"] == {
        "engine": "boxes_json",
        "path": "boxes.json",
        "version": stages()["given"].version,
    }
    assert set(found["evaluate"]["benchmarks"]) == {"boxes", "retrieval"}
    for kind, keys in found["evaluate"]["benchmarks"].items():
        assert keys["benchmark_version"] == version_of("evals/benchmarks", kind)
    assert set(found["pretrained pretrained-mini"]) == {"encoder", "version"}
    run = found["train clip-mini-500-s7"]
    assert set(run) == {"encoder", "loader", "method", "method_version", "options", "train", "version"}
    assert (run["method"], run["method_version"]) == ("clip", version_of("methods", "clip"))
    assert run["train"]["seed"] == 7
    assert found["train fineclip-mini-500-distill-s0"]["options"]["weights"] == {"global": 0.0}
    assert len({text for job, text in sections(plan_of()).items() if job in TRAINED}) == 6  # scales are inputs


def test_embedded_texts_are_part_of_the_runs_that_look_them_up() -> None:
    frozen = {"methods": {"fineclip": {"train_text": False}, "clip": {"train_text": True}}}
    before = sections(plan_of(frozen))
    after = sections(plan_of(frozen, {"loader": {"cached_texts": True}}))
    assert {job for job in JOBS if before[job] != after[job]} == DISTILL | {"report"}


def test_a_stand_in_for_the_encoder_evaluates_at_its_own_size() -> None:
    sized = {"benchmarks": {"retrieval": {"image_size": 64}}}
    plain, trial = plan_of(sized), plan_of(sized, {"substitutes": {"encoder": "mini"}})
    assert json.loads(plain.key("evaluate"))["benchmarks"]["retrieval"]["image_size"] == 64
    assert "image_size" not in json.loads(trial.key("evaluate"))["benchmarks"]["retrieval"]
    assert trial.key("index", benchmark="retrieval") == plain.key("index", benchmark="retrieval")


# --- shards


def test_a_scale_needs_a_prefix_of_the_shards() -> None:
    plan = plan_of({"plan": {"expected_keep_rate": 0.8, "shard_margin": 0.05}})  # 650 images a shard, four shards
    assert plan.prefix("500") == ["miniature-0000", "miniature-0001"]  # 656.25 samples
    assert plan.prefix("2000") == list(plan.shards) == [f"miniature-{number:04d}" for number in range(4)]
    assert [(shard.position, shard.of) for shard in plan.shards.values()] == [(0, 4), (1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize(
    ("change", "shards"),
    [
        ({"plan": {"shard_margin": 0.0}}, 1),
        ({"plan": {"expected_keep_rate": 0.3}}, 3),
        ({"scales": {"500": {"shard_margin": 0.0}}}, 1),
        ({"scales": {"500": {"expected_keep_rate": 0.3}}}, 3),
        (
            {
                "scales": {"500": {"shard_margin": 0.0, "expected_keep_rate": 0.4}},
                "plan": {"shard_margin": 9.0, "expected_keep_rate": 1.0},
            },
            2,
        ),
        ({"scales": {"500": {"images": None}}}, 4),
        ({"scales": {"500": {"shard_margin": 99.0}}}, 4),
    ],
)
def test_a_scale_overrides_the_margin_and_share_of_the_plan(change: dict[str, Any], shards: int) -> None:
    assert len(plan_of({"plan": {"expected_keep_rate": 0.8, "shard_margin": 0.05}}, change).prefix("500")) == shards


def test_shards_that_no_planned_scale_needs_are_not_planned() -> None:
    plan = plan_of({"plan": {"scales": ["500"], "expected_keep_rate": 0.8, "shard_margin": 0.05}})
    assert list(plan.shards) == ["miniature-0000", "miniature-0001"]
    assert list(plan_of({"plan": {"scales": []}}).shards) == []


def test_an_output_folder_inside_the_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="source.root"):
        plan_of({"source": {"kind": "folder", "root": "data"}, "dataset": {"name": "mine"}})


# --- runs, benchmarks, weights and external files


def test_runs_are_trained_or_come_as_they_are() -> None:
    plan = plan_of()
    assert {f"train {run}" for run in plan.trained} == TRAINED
    assert plan.untrained == ["pretrained-mini"]
    assert set(plan.runs) == {*plan.trained, *plan.untrained}


@pytest.mark.parametrize(
    ("planned", "leave_out", "benchmarks", "left_out"),
    [
        (["boxes"], ["retrieval"], ["boxes"], ["retrieval"]),
        (["boxes", "retrieval"], [], ["boxes", "retrieval"], []),
        ([], ["boxes", "retrieval"], [], ["boxes", "retrieval"]),
        (["retrieval", "gone"], ["gone", "boxes"], ["retrieval"], ["boxes"]),
    ],
)
def test_planned_benchmarks_and_those_left_out_of_training_are_two_lists(
    planned: list[str], leave_out: list[str], benchmarks: list[str], left_out: list[str]
) -> None:
    plan = plan_of(
        {
            "benchmarks": {"gone": {**GONE, "if_missing": "skip"}},
            "plan": {"benchmarks": planned},
            "select": {"exclude": leave_out},
        }
    )
    assert plan.benchmarks == benchmarks
    assert plan.left_out == left_out


def test_a_benchmark_whose_data_is_absent_is_skipped_with_a_warning_or_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def plan(if_missing: str, **lists: Any) -> Plan:
        return plan_of({"benchmarks": {"gone": {**GONE, "if_missing": if_missing}}}, lists)

    assert plan("skip", plan={"benchmarks": ["gone", "boxes"]}).benchmarks == ["boxes"]
    assert "gone" in caplog.text and "is not a folder" in caplog.text
    with pytest.raises(ConfigError, match=r"benchmarks\.gone: gone .*benchmarks\.gone\.if_missing: skip"):
        _ = plan("error", plan={"benchmarks": ["gone"]}).benchmarks
    with pytest.raises(ConfigError, match=r"benchmarks\.gone"):
        _ = plan("error", select={"exclude": ["gone"]}).left_out
    assert plan("error").benchmarks == ["boxes", "retrieval"]  # in no list


def test_weights_are_those_of_the_planned_models() -> None:
    models = [("detect", "yolov9t.mini"), ("caption", "blip2.mini"), ("encoders", "mini"), ("tokenizers", "mini")]
    assert plan_of().needed_weights() == models
    assert plan_of({"plan": {"captions": "template"}}).needed_weights() == [models[0], *models[2:]]
    assert plan_of({"encoders": {"mini": {"tokenizer": None}}}).needed_weights() == models[:3]
    plan = plan_of()
    assert plan.weights("detect", "released") is plan.weights("caption", "template") is None
    assert plan.weights("tokenizers", "mini") == plan.config.encoders["mini"].tokenizer
    assert plan.weights("encoders", "mini") == plan.config.encoders["mini"].weights


def test_weights_are_those_of_the_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.json").touch()
    plan = plan_of({"substitutes": {"detect": "released", "caption": "template"}})
    assert plan.needed_weights() == [("encoders", "mini"), ("tokenizers", "mini")]


def test_external_annotations_must_be_there_where_they_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()  # which plans neither of the two
    assert plan.external_json("detect", "released") == ["boxes.json"]
    assert plan.external_json("caption", "released") == ["captions.json"]
    assert plan.external_json("detect", "yolov9t.mini") == plan.external_json("caption", "template") == []
    for kind, key in (("detect", "regions"), ("caption", "captions")):
        with pytest.raises(ConfigError, match=rf"{kind}\.released\.path: \w+\.json"):
            plan_of({"plan": {key: "released"}})
    for name in ("boxes.json", "captions.json"):
        (tmp_path / name).touch()
    plan_of({"plan": {"regions": "released", "captions": "released"}})


def test_files_of_own_boxes_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {
        name: {"engine": "boxes_files", "format": kind, "path": path}
        for name, kind, path in (("yolo", "yolo", "mine/labels"), ("voc", "voc", "voc"), ("csv", "csv", "boxes.csv"))
    }

    def plan_with(name: str, **more: Any) -> Plan:
        return plan_of({"detect": own | {name: own[name] | more}, "plan": {"regions": name}})

    with pytest.raises(ConfigError, match=r"detect\.yolo\.path: mine/labels: no such folder"):
        plan_with("yolo")
    with pytest.raises(ConfigError, match=r"detect\.csv\.path: boxes.csv: no such file"):
        plan_with("csv")
    (tmp_path / "mine/labels").mkdir(parents=True)
    with pytest.raises(DataError, match=r"detect\.yolo: none of data.yaml.* is in mine/labels"):
        plan_with("yolo")
    for path in ("mine/labels/a.txt", "mine/data.yaml", "voc/a.xml", "boxes.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(ConfigError, match=r"detect\.yolo\.names: none.txt: no such file"):
        plan_with("yolo", names="none.txt")
    plan = plan_with("yolo")
    assert all(plan.is_external("detect", name) for name in own) and not plan.is_external("detect", "yolov9t.mini")
    assert {name: plan.external_json("detect", name) for name in own} == {
        "yolo": ["mine/data.yaml"], "voc": [], "csv": ["boxes.csv"],
    }  # fmt: skip
    assert plan_with("yolo", labels=False).external_json("detect", "yolo") == [
        "mine/data.yaml"
    ]  # it may state keypoints
    assert plan.external_fingerprint("detect", "csv") is plan.external_fingerprint("detect", "released") is None
    before = {name: plan.external_fingerprint("detect", name) for name in ("yolo", "voc")}
    (tmp_path / "mine/labels/a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "voc/b.xml").touch()
    after = {name: plan.external_fingerprint("detect", name) for name in ("yolo", "voc")}
    assert None not in before.values() and all(before[name] != after[name] for name in before)


def test_files_that_the_index_of_a_source_reads(tmp_path: Path) -> None:
    assert plan_of().source_annotations == []
    assert plan_of().source_fingerprint is None
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017/1.jpg").touch()
    names = [f"annotations/{name}_train2017.json" for name in ("captions", "instances")]
    for name in names:
        (tmp_path / name).touch()
    coco = {"kind": "coco", "root": str(tmp_path)}
    assert of_source(coco).source_annotations == [f"{tmp_path}/{name}" for name in names]
    assert of_source({**coco, "instances": None}).source_annotations == [f"{tmp_path}/{names[0]}"]
    assert of_source({**coco, "captions": None}).source_annotations == [f"{tmp_path}/{names[1]}"]
    assert of_source(coco).source_fingerprint is not None
    (tmp_path / "table.csv").write_text("file,caption\n")
    folder = {"kind": "folder", "root": str(tmp_path), "captions": "table.csv"}
    assert of_source(folder).source_annotations == [str(tmp_path / "table.csv")]
    assert of_source({"kind": "folder", "root": str(tmp_path)}).source_annotations == []


def test_files_that_the_index_of_a_benchmark_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "masks", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images/1.jpg").write_bytes(b"1")
    (tmp_path / "masks/1.png").write_bytes(b"1")
    panoptic = {"root": str(tmp_path), "images": "images", "masks": "masks", "annotations": "annotations/p.json"}
    captions = {"root": str(tmp_path), "images": "images", "annotations": "annotations/c.json"}
    more = {
        "p": {"kind": "boxes", "source": {"layout": "coco_panoptic", **panoptic}},
        "c": {"kind": "retrieval", "source": {"layout": "coco_captions", **captions}},
        "k": {"kind": "retrieval", "source": {"layout": "karpathy", **captions}},
    }

    def plan() -> Plan:
        return plan_of({"benchmarks": more})

    assert plan().benchmark_annotations("boxes") == plan().benchmark_fingerprint("boxes") == []  # scenes
    assert plan().benchmark_annotations("p") == []  # not there
    for name in ("p.json", "c.json"):
        (tmp_path / "annotations" / name).touch()
    assert plan().benchmark_annotations("p") == [f"{tmp_path}/annotations/p.json"]
    assert plan().benchmark_annotations("c") == plan().benchmark_annotations("k") == [f"{tmp_path}/annotations/c.json"]
    images, masks = plan().benchmark_fingerprint("p")
    assert plan().benchmark_fingerprint("c") == plan().benchmark_fingerprint("k") == [images]
    (tmp_path / "masks/1.png").write_bytes(b"22")
    assert plan().benchmark_fingerprint("p")[0] == images and plan().benchmark_fingerprint("p")[1] != masks
    assert plan().benchmark_fingerprint("c") == [images]

    counted: list[Path] = []
    monkeypatch.setattr("fineclip.plan.directory_fingerprint", lambda folder: counted.append(folder) or "x")
    one = plan()
    assert one.benchmark_fingerprint("c") == one.benchmark_fingerprint("k") == ["x"]
    assert counted == [tmp_path / "images"]  # read once for all benchmarks


def test_weights_of_the_user_are_watched(tmp_path: Path) -> None:
    encoder = {"model": "x", "weights": {"path": str(tmp_path / "w.pt")}}
    assert plan_of({"encoders": {"own": encoder}}).local_weights("encoders", "own") == []
    (tmp_path / "w.pt").touch()
    assert plan_of({"encoders": {"own": encoder}}).local_weights("encoders", "own") == [str(tmp_path / "w.pt")]
    assert plan_of().local_weights("encoders", "mini") == plan_of().local_weights("caption", "template") == []


def of_source(source: Mapping[str, Any]) -> Plan:
    values = values_of()
    values["source"] = source
    return Plan(load(values))


# --- jobs run this checkout


@pytest.mark.parametrize("before", [None, "/elsewhere"])
def test_jobs_find_this_checkout_and_this_python_first(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before:
        monkeypatch.setenv("PYTHONPATH", before)
    run_this_checkout("/checkout/workflow")
    assert os.environ["PYTHONPATH"] == ("/checkout:/elsewhere" if before else "/checkout")
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
