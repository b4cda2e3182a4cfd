"""Every preset is valid alone and under the trial overlay, and config.yaml is what its models say."""

from pathlib import Path

import pytest

from fineclip.config import AnnotationsDetect, Blip2Caption, TemplateCaption, YoloDetect, load, read_files
from fineclip.config.document import heading_of, render
from fineclip.miniature import WEIGHTS
from fineclip.stages.weights import hash_of

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
TRIAL = ROOT / "workflow/presets/trial.yaml"
BASES = "# Lay over: "


def layers_of(preset: Path) -> list[list[Path]]:
    """What the first line of an overlay says it is laid over, one by one; a whole configuration stands alone."""
    first = preset.read_text().splitlines()[0]
    if not first.startswith(BASES):
        return [[preset]]
    return [[ROOT / base, preset] for base in first.removeprefix(BASES).split(", ")]


WHOLE = [files for path in [ROOT / "config.yaml", *PRESETS] if path != TRIAL for files in layers_of(path)]


def together(files: list[Path]) -> str:
    return " + ".join(path.stem for path in files)


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
def test_authors_settings_take_the_authors_pixels(files: list[Path]) -> None:
    by_authors = files[-1].name.startswith(("clim-", "clipself-", "fineclip-", "regionclip-"))
    assert load(read_files(files)).loader.resample == ("pillow" if by_authors else "fast")


@pytest.mark.parametrize("files", WHOLE, ids=together)
def test_a_trial_uses_shipped_models_under_its_own_name(files: list[Path]) -> None:
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
        assert trial.benchmark(name).image_size is None  # that of the stand-in
        assert alone.benchmark(name) == alone.benchmarks[name]


@pytest.mark.parametrize(
    "files", [[ROOT / "config.yaml"], [ROOT / "workflow/presets/coco.yaml", TRIAL]], ids=["config", "trial"]
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


def test_config_yaml_is_generated_from_the_models() -> None:
    path = ROOT / "config.yaml"
    assert render(read_files([path]), heading=heading_of(path)) == path.read_text()
