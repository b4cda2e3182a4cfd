"""Every preset is valid alone, under the trial overlay and in the JSON schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from fineclip.config import AnnotationsDetect, Blip2Caption, TemplateCaption, YoloDetect, load, read_files
from fineclip.miniature import WEIGHTS
from fineclip.stages.weights import hash_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workflow/presets"
SCHEMA = ROOT / "workflow/config.schema.json"
TRIAL = FOLDER / "trial.yaml"
DATASETS = sorted((FOLDER / "datasets").glob("*.yaml"))
PAPERS = sorted((FOLDER / "papers").glob("*.yaml"))
OVERLAYS = sorted((*(FOLDER / "studies").glob("*.yaml"), *(FOLDER / "hardware").glob("*.yaml")))
DATASET_OF = {"coco": "coco", "lvis": "lvis", "cc3m": "cc2.5m"}  # by the end of a paper preset's name
FILES = [ROOT / "config.yaml", *DATASETS, *PAPERS, *OVERLAYS, TRIAL]


def dataset_of(preset: Path) -> Path:
    return FOLDER / "datasets" / f"{DATASET_OF[preset.stem.rsplit('-', 1)[1]]}.yaml"


WHOLE = [
    [ROOT / "config.yaml"],
    *([dataset] for dataset in DATASETS),
    *([dataset_of(preset), preset] for preset in PAPERS),
    *([base, overlay] for overlay in OVERLAYS for base in (ROOT / "config.yaml", *DATASETS)),
]


def together(files: list[Path]) -> str:
    return " + ".join(path.stem for path in files)


def test_every_preset_is_in_a_folder_of_its_kind() -> None:
    assert {*FILES} - {ROOT / "config.yaml"} == {*FOLDER.rglob("*.yaml")}
    assert DATASETS and PAPERS and OVERLAYS


@pytest.mark.parametrize("files", WHOLE, ids=together)
def test_a_preset_is_valid(files: list[Path]) -> None:
    config = load(read_files(files), where=together(files))
    assert config.dataset.suffix is None
    assert any(run.method for run in config.runs().values())
    for run in config.runs().values():
        if run.method:
            config.options(run)
            config.training(run)


@pytest.mark.parametrize("files", WHOLE, ids=together)
def test_paper_presets_use_the_pixels_of_the_authors(files: list[Path]) -> None:
    by_authors = files[-1] in PAPERS
    assert load(read_files(files)).loader.image_backend == ("pillow" if by_authors else "turbojpeg")


@pytest.mark.parametrize("files", WHOLE, ids=together)
def test_a_trial_uses_shipped_models_and_its_own_output_folder(files: list[Path]) -> None:
    alone, trial = load(read_files(files)), load(read_files([*files, TRIAL]))
    assert trial.dataset.folder == f"{alone.dataset.name}-trial"
    assert trial.planned_encoders == ("mini",) and trial.encoders["mini"].weights.shipped
    chosen = trial.detect[trial.regions], trial.caption[trial.captions]
    for entry, was in zip(chosen, (alone.detect[alone.regions], alone.caption[alone.captions]), strict=True):
        assert type(entry) is type(was)
        if isinstance(entry, YoloDetect | Blip2Caption):
            assert entry.weights.shipped
    assert trial.plan.scales == ("all",) and trial.train.max_steps
    for name in trial.plan.benchmarks:
        assert trial.benchmark(name).image_size is None  # that of the substitute
        assert alone.benchmark(name) == alone.benchmarks[name]


@pytest.mark.parametrize(
    "files", [[ROOT / "config.yaml"], [FOLDER / "datasets/coco.yaml", TRIAL]], ids=["config", "trial"]
)
def test_the_hashes_of_shipped_models_are_in_the_configuration(files: list[Path]) -> None:
    config = load(read_files(files))
    entries = [config.detect["yolov9t.mini"], config.caption["blip2.mini"], config.encoders["mini"]]
    shipped = [entry.weights for entry in entries if not isinstance(entry, AnnotationsDetect | TemplateCaption)]
    assert len(shipped) == 3
    for weights in (*shipped, config.encoders["mini"].tokenizer):
        assert weights is not None
        assert weights.shipped is not None
        assert weights.sha256 == hash_of(WEIGHTS / weights.shipped)


def test_config_yaml_is_short() -> None:
    assert len((ROOT / "config.yaml").read_text().splitlines()) < 110


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_modeline_names_the_schema(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("$schema=")[2]).resolve() == SCHEMA


@pytest.mark.parametrize("path", [*DATASETS, *PAPERS, *OVERLAYS, TRIAL], ids=lambda path: path.stem)
def test_a_preset_states_the_command_that_uses_it(path: Path) -> None:
    commands = [line for line in path.read_text().splitlines() if line.startswith("#   snakemake")]
    stacks = [[ROOT / name for name in line.partition("--configfile ")[2].split()] for line in commands]
    assert stacks and all(files[-1] == path for files in stacks)
    for files in stacks:
        load(read_files(files))


def schema_errors(values: object) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    return [error.message for error in validator.iter_errors(json.loads(json.dumps(values)))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_valid_in_the_schema(path: Path) -> None:
    assert schema_errors(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    "values",
    [
        {"filtr": {}},
        {"filter": {"min_sid_px": 3}},
        {"train": {"epochs": 0}},
        {"train": {"precision": "fp64"}},
        {"detect": {"x": {"engine": "rcnn"}}},
        {"benchmarks": {"x": {"kind": "boxes", "source": {"layout": "karpathy"}}}},
        {"runtime": {"devices": "all"}},
    ],
)
def test_the_schema_marks_errors(values: object) -> None:
    assert schema_errors(values)
