"""Rules: the jobs that an edit plans, the manifests and values that each verb is given, and the report after a failure."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.dag import edit_config, planned, small_world, snakemake, write_config
from tests.helpers.external import boxes_json, captions_json
from tests.helpers.workflow import Command, commands, pretend_finished

Copy = Callable[[], Path]
RUNS = [f"{method}-mini-{scale}-s0" for scale in (10, 20) for method in ("clip", "fineclip")]
PACK = "data/small/pack/annotations.template"
AFTER_PACK = {"data_card": 1, "train_run": 4, "evaluate_run": 4, "report": 1}
AFTER_CAPTION = {"caption_shard": 2, "pack_shard": 2, **AFTER_PACK}
AFTER_SELECT = {"train_run": 4, "evaluate_run": 4, "report": 1}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with input and configuration, where nothing ran."""
    folder = tmp_path_factory.mktemp("fresh")
    small_world(folder)
    return folder


@pytest.fixture(scope="module")
def jobs(fresh: Path) -> list[Command]:
    return commands(fresh)


@pytest.fixture(scope="module")
def recorded(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it where every job is recorded as done."""
    folder = tmp_path_factory.mktemp("recorded") / "world"
    shutil.copytree(fresh, folder)
    pretend_finished(folder)
    return folder


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "world"
    shutil.copytree(recorded, folder)
    return folder


def of_rule(jobs: list[Command], rule: str, **options: str) -> Command:
    """The one job of a rule whose options have these values."""
    found = [
        job
        for job in jobs
        if job.rule == rule and all(job.options[f"--{name}"] == [value] for name, value in options.items())
    ]
    assert len(found) == 1, found
    return found[0]


# --- jobs that an edit plans


def test_a_recorded_workflow_has_nothing_to_do(recorded: Path) -> None:
    assert planned(recorded) == {}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"filter": {"min_side_px": 65}}, {"filter_shard": 2, "select_scale": 2, "detect_shard": 2, **AFTER_CAPTION}),
        ({"detect": {"annotations": {"max_regions": 2}}}, {"detect_shard": 2, **AFTER_CAPTION}),
        ({"caption": {"template": {"template": "a {label}"}}}, AFTER_CAPTION),
        (
            {"source": {"seed": 7}},
            {
                "index_source": 1,
                "check_dataset": 1,
                "source_shard": 2,
                "filter_shard": 2,
                "select_scale": 2,
                "detect_shard": 2,
                **AFTER_CAPTION,
            },
        ),
        ({"select": {"exclude": ["boxes"]}}, {"select_scale": 2, **AFTER_SELECT}),
        ({"scales": {"10": {"images": 9}}}, {"select_scale": 1, "train_run": 2, "evaluate_run": 2, "report": 1}),
        (
            {"encoders": {"mini": {"image_size": 64}}},
            {"train_run": 4, "pretrained_run": 1, "evaluate_run": 5, "report": 1},
        ),
        ({"train": {"learning_rate": 0.5}}, AFTER_SELECT),
        (
            {"methods": {"fineclip": {"relaxed": {"detach_crops": False}}}},
            {"train_run": 2, "evaluate_run": 2, "report": 1},
        ),
        ({"methods": {"clipself": {"wise_ft_alpha": 0.5}}}, {"report": 1}),
        ({"plan": {"seeds": [0, 3]}}, {"train_run": 4, "evaluate_run": 4, "report": 1}),
        ({"plan": {"benchmarks": ["boxes"]}}, {"evaluate_run": 5, "report": 1}),
        (
            {"benchmarks": {"retrieval": {"image_size": 64}}},
            {"index_benchmark": 1, "select_scale": 2, "train_run": 4, "evaluate_run": 5, "report": 1},
        ),
        ({"plan": {"shard_margin": 0.01}}, {"report": 1}),
        ({"check": {"images": 5}}, {}),
        (
            {
                "runtime": {
                    "device": "cpu",
                    "num_workers": 3,
                    "detect_batch_size": 5,
                    "devices": [0],
                    "crop_micro_batch_size": 2,
                }
            },
            {},
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_an_edit_plans_these_jobs(copy: Path, change: dict[str, Any], rules: dict[str, int]) -> None:
    edit_config(copy, change)
    assert planned(copy) == rules


@pytest.mark.parametrize("change", [{}, {"detect": {"annotations": {"max_regions": 2}}}])
def test_jobs_that_follow_the_check_are_planned_with_it(copy: Path, change: dict[str, Any]) -> None:
    edit_config(copy, change | {"source": {"seed": 7}})
    found = planned(copy)
    assert found["check_dataset"] == 1 and found["detect_shard"] == 2
    assert found.items() >= AFTER_CAPTION.items()


def test_a_check_that_runs_again_plans_no_other_job(copy: Path) -> None:
    (copy / "data/small/check/annotations.json").touch()
    assert planned(copy) == {}


def test_a_new_file_among_the_images_lists_them_again(copy: Path) -> None:
    shutil.copyfile(next((copy / "input/train2017").iterdir()), copy / "input/train2017/9.jpg")
    assert planned(copy)["index_source"] == 1


def test_a_changed_json_of_the_source_lists_it_again(copy: Path) -> None:
    with (copy / "input/annotations/captions_train2017.json").open("a") as file:
        file.write(" ")
    assert planned(copy)["index_source"] == 1


BENCHMARKS_ON_IMAGES = {"index_benchmark": 2, "select_scale": 2, "evaluate_run": 5}
ON_ONE = {"index_benchmark": 1, "select_scale": 2, "evaluate_run": 5}


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("annotations/captions_val2017.json", ON_ONE),
        ("annotations/panoptic_val2017.json", ON_ONE),
        ("annotations/panoptic_val2017/*.png", ON_ONE),
        ("val2017/*.jpg", BENCHMARKS_ON_IMAGES),
    ],
)
def test_a_corrected_file_of_a_benchmark_plans_its_index_and_its_scores(
    copy: Path, file: str, rules: dict[str, int]
) -> None:
    path = sorted((copy / "input").glob(file))[0]
    path.write_bytes(path.read_bytes() + b" ")
    found = planned(copy)
    assert {rule: found.get(rule) for rule in rules} == rules
    assert "index_source" not in found


@pytest.mark.parametrize("change", ["removed", "added", "same size"])
def test_an_image_of_a_benchmark_that_comes_or_goes_or_is_replaced(copy: Path, change: str) -> None:
    path = sorted((copy / "input/val2017").iterdir())[0]
    if change == "removed":
        path.unlink()
    elif change == "added":
        shutil.copyfile(path, path.with_name("9.jpg"))
    else:
        path.write_bytes(bytes(path.stat().st_size))
    assert planned(copy)["index_benchmark"] == 2


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        (
            "data/small/filter/coco-0001.json",
            {"detect_shard": 1, "caption_shard": 1, "pack_shard": 1, "select_scale": 1},
        ),
        (f"{PACK}/coco-0001.json", {"data_card": 1, "train_run": 2}),
        ("data/small/index/boxes.json", {"select_scale": 2, "train_run": 4, "evaluate_run": 5}),
        ("data/weights/encoders/mini.json", {"train_run": 4, "pretrained_run": 1}),
        ("data/weights/tokenizers/mini.json", {"train_run": 4, "pretrained_run": 1}),
        ("results/small/clip-mini-10-s0/train.json", {"evaluate_run": 1, "report": 1}),
        ("results/small/clip-mini-10-s0/evals.json", {"report": 1}),
    ],
)
def test_a_changed_manifest_plans_the_jobs_that_read_it(copy: Path, changed: str, rules: dict[str, int]) -> None:
    (copy / changed).write_text('{"other": 1}')
    found = planned(copy)
    assert {rule: found.get(rule) for rule in rules} == rules
    assert "source_shard" not in found and "index_benchmark" not in found


# --- inputs and values of each job


def test_every_job_is_planned_once(jobs: list[Command]) -> None:
    assert Counter(job.rule for job in jobs) == {
        "fetch_weights": 2,
        "index_source": 1,
        "source_shard": 2,
        "filter_shard": 2,
        "index_benchmark": 2,
        "check_dataset": 1,
        "select_scale": 2,
        "detect_shard": 2,
        "caption_shard": 2,
        "pack_shard": 2,
        "data_card": 1,
        "train_run": 4,
        "pretrained_run": 1,
        "evaluate_run": 5,
        "report": 1,
    }


def test_each_job_of_a_shard_reads_the_manifest_before_it(jobs: list[Command]) -> None:
    for number in (0, 1):
        shard = f"coco-000{number}"
        steps = [
            ("source_shard", "listing", "data/small/listing.json", f"data/small/source/{shard}.json"),
            ("filter_shard", "source", f"data/small/source/{shard}.json", f"data/small/filter/{shard}.json"),
            (
                "detect_shard",
                "filter",
                f"data/small/filter/{shard}.json",
                f"data/small/detect/annotations/{shard}.json",
            ),
            (
                "caption_shard",
                "detect",
                f"data/small/detect/annotations/{shard}.json",
                f"data/small/caption/annotations.template/{shard}.json",
            ),
            (
                "pack_shard",
                "caption",
                f"data/small/caption/annotations.template/{shard}.json",
                f"{PACK}/{shard}.json",
            ),
        ]
        for rule, option, read, written in steps:
            assert of_rule(jobs, rule, manifest=written).options[f"--{option}"] == [read]
        source = of_rule(jobs, "source_shard", shard=shard)
        assert source.options["--shard-index"] == [f"{number}/3"]
        assert source.options["--tars"] == []


def test_a_scale_is_drawn_from_its_prefix_without_the_images_of_left_out_benchmarks(jobs: list[Command]) -> None:
    filters = [f"data/small/filter/coco-000{number}.json" for number in (0, 1)]
    for scale, shards in (("10", 1), ("20", 2)):
        job = of_rule(jobs, "select_scale", scale=scale)
        assert job.options["--manifest"] == [f"data/small/select/{scale}.json"]
        assert job.options["--filter"] == filters[:shards]
        assert job.options["--index"] == ["data/small/index/boxes.json", "data/small/index/retrieval.json"]


def test_benchmarks_that_are_evaluated_and_those_left_out_of_training_differ(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    edit_config(folder, {"plan": {"benchmarks": ["boxes"]}, "select": {"exclude": ["retrieval"]}})
    jobs = commands(folder)
    left_out = [job.options["--index"] for job in jobs if job.rule == "select_scale"]
    assert left_out == [["data/small/index/retrieval.json"]] * 2
    evaluated = [job.options["--index"] for job in jobs if job.rule == "evaluate_run"]
    assert evaluated == [["data/small/index/boxes.json"]] * 5


def test_a_run_trains_on_the_shards_and_samples_of_its_scale(jobs: list[Command]) -> None:
    packed = [f"{PACK}/coco-000{number}.json" for number in (0, 1)]
    for run in RUNS:
        scale = run.split("-")[2]
        job = of_rule(jobs, "train_run", manifest=f"results/small/{run}/train.json")
        assert job.options["--select"] == [f"data/small/select/{scale}.json"]
        assert job.options["--pack"] == packed[: 1 if scale == "10" else 2]
        assert job.options["--weights"] == ["data/weights/encoders/mini.json"]
        assert job.options["--tokenizer"] == ["data/weights/tokenizers/mini.json"]
        assert job.options["--concepts"] == job.options["--texts"] == []
    job = of_rule(jobs, "pretrained_run")
    assert job.options["--weights"] == ["data/weights/encoders/mini.json"]
    assert job.options["--tokenizer"] == ["data/weights/tokenizers/mini.json"]
    assert job.options["--manifest"] == ["results/small/pretrained-mini/train.json"]


def test_every_run_is_evaluated_on_every_planned_benchmark(jobs: list[Command]) -> None:
    for run in ("pretrained-mini", *RUNS):
        job = of_rule(jobs, "evaluate_run", manifest=f"results/small/{run}/evals.json")
        assert job.options["--run"] == [f"results/small/{run}/train.json"]
        assert job.options["--index"] == ["data/small/index/boxes.json", "data/small/index/retrieval.json"]


def test_the_card_reads_every_packed_shard(jobs: list[Command]) -> None:
    assert of_rule(jobs, "data_card").options["--pack"] == [f"{PACK}/coco-000{number}.json" for number in (0, 1)]


def test_weights_are_fetched_of_the_models_in_use(jobs: list[Command]) -> None:
    for kind in ("encoders", "tokenizers"):
        job = of_rule(jobs, "fetch_weights", kind=kind)
        assert job.options["--name"] == ["mini"]
        assert job.options["--manifest"] == [f"data/weights/{kind}/mini.json"]


def test_each_job_passes_on_its_section(jobs: list[Command]) -> None:
    sections = {job.rule: json.loads(job.options["--config"][0]) for job in jobs}
    assert sections["filter_shard"]["min_side_px"] == 64
    assert sections["index_source"]["kind"] == sections["source_shard"]["kind"] == "coco"
    assert sections["detect_shard"]["engine"] == "annotations"
    assert sections["caption_shard"]["engine"] == "template"
    assert sections["select_scale"]["scale"]["images"] in (10, 20)
    assert sections["fetch_weights"]["shipped"].startswith("encoder/")
    assert {name: keys["kind"] for name, keys in sections["evaluate_run"]["benchmarks"].items()} == {
        "boxes": "boxes",
        "retrieval": "retrieval",
    }
    assert set(sections["pretrained_run"]) == {"encoder", "version"}
    assert sections["report"]["plan"]["scales"] == ["10", "20"]
    assert "runtime" not in sections["report"]
    assert all("version" in section for rule, section in sections.items() if rule not in ("report", "check_dataset"))


def test_resources_come_from_runtime(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    runtime = {
        "device": "cpu",
        "detect_batch_size": 5,
        "caption_batch_size": 6,
        "evaluate_batch_size": 7,
        "devices": [0, 2],
    }
    edit_config(folder, {"runtime": runtime})
    jobs = commands(folder, "--set-threads", "train_run=2", "--set-resources", "train_run:gpu=1")
    for rule, batch in (("detect_shard", "5"), ("caption_shard", "6"), ("evaluate_run", "7")):
        for job in (job for job in jobs if job.rule == rule):
            assert job.options["--batch-size"] == [batch]
            assert job.options["--device"] == ["cpu"]
            assert job.options["--devices"] == ["0,2"]
            assert job.options["--gpus"] == ["0"]
    for job in (job for job in jobs if job.rule == "train_run"):
        assert json.loads(job.options["--runtime"][0]) == runtime
        assert (job.options["--gpus"], job.options["--threads"]) == (["1"], ["2"])


def test_weights_concepts_and_embedded_texts_reach_the_jobs_that_need_them(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    model = {"engine": "yolo", "weights": {"shipped": "detector.pt", "sha256": "0" * 64}}
    captioner = {"engine": "blip2", "weights": {"shipped": "captioner", "sha256": "0" * 64}}
    edit_config(
        folder,
        {
            "detect": {"yolo": model},
            "caption": {"blip2": captioner},
            "loader": {"cached_texts": True},
            "methods": {"clip": {"train_text": True}},
            "plan": {"regions": "yolo", "captions": "blip2", "methods": ["clip", "fineclip", "regionclip"]},
        },
    )
    jobs = commands(folder)
    for job in jobs:
        if job.rule == "detect_shard":
            assert job.options["--weights"] == ["data/weights/detect/yolo.json"]
            assert job.options["--annotations"] == []
        if job.rule == "caption_shard":
            assert job.options["--weights"] == ["data/weights/caption/blip2.json"]
            assert job.options["--annotations"] == []
    texts = [f"data/small/texts/mini/yolo.blip2/coco-000{number}.json" for number in (0, 1)]
    look_up_captions: dict[str, list[str]] = {"clip": [], "fineclip": texts, "regionclip": []}
    for scale, shards in (("10", 1), ("20", 2)):
        for method, manifests in look_up_captions.items():
            job = of_rule(jobs, "train_run", manifest=f"results/small/{method}-mini-{scale}-s0/train.json")
            assert job.options["--texts"] == manifests[:shards]
            named = [f"data/small/concepts/yolo/{scale}.json"] if method == "regionclip" else []
            assert job.options["--concepts"] == named
        detected = [f"data/small/detect/yolo/coco-000{number}.json" for number in (0, 1)]
        job = of_rule(jobs, "concepts_scale", manifest=f"data/small/concepts/yolo/{scale}.json")
        assert job.options["--select"] == [f"data/small/select/{scale}.json"]
        assert job.options["--detect"] == detected[:shards]
    job = of_rule(jobs, "texts_shard", manifest=texts[1])
    assert job.options["--pack"] == ["data/small/pack/yolo.blip2/coco-0001.json"]
    assert job.options["--weights"] == ["data/weights/encoders/mini.json"]
    assert job.options["--tokenizer"] == ["data/weights/tokenizers/mini.json"]
    edit_config(folder, {"concepts": {"from": "captions"}, "plan": {"methods": ["clip"]}})
    concepts = [job for job in commands(folder, "concepts") if job.rule == "concepts_scale"]
    assert [job.options["--detect"] for job in concepts] == [[], []]


def test_a_run_reads_the_texts_of_its_own_encoder(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    encoders = yaml.safe_load((folder / "config.yaml").read_text())["encoders"]
    edit_config(
        folder,
        {
            "encoders": {"other": encoders["mini"]},
            "loader": {"cached_texts": True},
            "plan": {"encoders": ["mini", "other"], "methods": ["fineclip"], "scales": ["10"]},
        },
    )
    jobs = commands(folder, "train")
    for encoder in ("mini", "other"):
        job = of_rule(jobs, "train_run", manifest=f"results/small/fineclip-{encoder}-10-s0/train.json")
        assert job.options["--texts"] == [f"data/small/texts/{encoder}/annotations.template/coco-0000.json"]
        assert job.options["--weights"] == [f"data/weights/encoders/{encoder}.json"]


def test_shards_of_tars_do_not_depend_on_the_number_of_tars(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    source = {"kind": "webdataset", "root": "tars"}
    write_config(folder, yaml.safe_load((folder / "config.yaml").read_text()) | {"source": source})
    (folder / "tars").mkdir()
    for number in range(3):
        (folder / f"tars/{number}.tar").touch()
        edit_config(folder, {"scales": {"10": {"images": None}, "20": {"images": None}}})
        jobs = [job.options for job in commands(folder, "source") if job.rule == "source_shard"]
        tars = {(*job["--shard"], *job["--tars"], *job["--shard-index"], *job["--listing"]) for job in jobs}
        assert tars == {(str(each), f"tars/{each}.tar", "0/1") for each in range(number + 1)}


def test_nothing_is_evaluated_without_a_benchmark(copy: Path) -> None:
    edit_config(copy, {"plan": {"benchmarks": []}})
    assert "evaluate_run" not in planned(copy)
    (copy / "results/small/clip-mini-10-s0/train.json").write_text('{"other": 1}')
    assert planned(copy) == {"report": 1}


def test_the_report_needs_the_selections_of_pretrained_encoders_too(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    edit_config(folder, {"plan": {"methods": []}})
    assert Counter(job.rule for job in commands(folder, "report"))["select_scale"] == 2


def test_released_boxes_and_captions_are_read_once_and_reach_every_shard(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    boxes_json(folder, {"1.jpg": []})
    captions_json(folder, {})
    edit_config(
        folder,
        {
            "detect": {"released": {"engine": "boxes_json", "path": "boxes.json"}},
            "caption": {"ours": {"engine": "captions_json", "path": "captions.json"}},
            "plan": {"regions": "released", "captions": "ours"},
        },
    )
    jobs = commands(folder, "caption")
    read = [
        (job.options["--kind"], job.options["--name"], job.options["--manifest"])
        for job in jobs
        if job.rule == "import_annotations"
    ]
    assert sorted(read) == [
        (["caption"], ["ours"], ["data/small/given/caption/ours.json"]),
        (["detect"], ["released"], ["data/small/given/detect/released.json"]),
    ]
    for rule, manifest in (("detect_shard", "detect/released"), ("caption_shard", "caption/ours")):
        given = [job.options["--annotations"] for job in jobs if job.rule == rule]
        assert given == [[f"data/small/given/{manifest}.json"]] * 2


def test_own_boxes_are_read_once_and_a_new_label_plans_them_again(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    labels = folder / "mine/labels/1.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text("0 .5 .5 .5 .5")
    (folder / "mine/classes.txt").write_text("cat")
    own = {"engine": "boxes_files", "format": "yolo", "path": "mine/labels"}
    edit_config(folder, {"detect": {"own": own}, "plan": {"regions": "own"}})
    jobs = commands(folder, "detect")
    manifest = "data/small/given/detect/own.json"
    assert of_rule(jobs, "import_annotations").options["--manifest"] == [manifest]
    assert [job.options["--annotations"] for job in jobs if job.rule == "detect_shard"] == [[manifest]] * 2
    pretend_finished(folder)
    assert "import_annotations" not in planned(folder, "detect")
    for change in (labels, labels.with_name("2.txt"), folder / "mine/classes.txt"):
        pretend_finished(folder)
        change.write_text("0 .5 .5 .5 .25 " if change.suffix == ".txt" and change.parent == labels.parent else "dog")
        assert planned(folder, "detect")["import_annotations"] == 1, change


# --- a failed job, a wrong configuration


def test_a_failed_job_leaves_a_report_that_names_what_is_missing(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    (folder / "input/annotations/captions_train2017.json").write_text("{")
    done = snakemake(folder, "source")
    assert done.returncode == 1
    page = (folder / "results/small/report/index.html").read_text()
    assert "data/small/listing.json" in page or "clip-mini-10-s0" in page
    assert "0 of 5 runs" in done.stdout + done.stderr


def test_a_wrong_configuration_ends_with_one_message_and_code_2(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(fresh, folder)
    edit_config(folder, {"filter": {"min_sid_px": 3}})
    done = snakemake(folder, "--dry-run")
    assert done.returncode == 2
    assert "config.yaml: filter.min_sid_px: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    edit_config(folder, {"filter": {"min_side_px": 3}})
    shutil.rmtree(folder / "input/val2017")
    assert snakemake(folder, "--dry-run").returncode == 2
