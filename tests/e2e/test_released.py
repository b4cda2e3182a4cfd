"""Region data in the authors' forms, and LVIS' JSON, through the data stages, on photographs of COCO."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from fineclip.shards import ByteRangeReader, DetectRow, PackRow, kept_rows, read_manifest, read_sample
from tests.helpers.dag import ROOT, planned, run_all, snakemake
from tests.helpers.external import key_of, write_json

COCO = Path(os.environ.get("FINECLIP_COCO", ROOT.parent / "shared/data/coco"))
PRESETS = ROOT / "workflow/presets"
TRIAL = str(PRESETS / "trial.yaml")
photographs = pytest.mark.skipif(not COCO.is_dir(), reason=f"no photographs in COCO's layout at {COCO}")
pytestmark = [pytest.mark.slow, photographs]


def instances() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((COCO / "annotations/instances_train2017.json").read_text())
    return values


def linked(folder: Path) -> Path:
    """data/coco of the photographs, with room for other JSONs."""
    root = folder / "data/coco"
    (root / "annotations").mkdir(parents=True)
    for path in [*COCO.iterdir(), *(COCO / "annotations").iterdir()]:
        if path.name != "annotations":
            (root / path.relative_to(COCO)).symlink_to(path.resolve())
    return root


def overlay(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_proposals_and_captions_that_the_authors_released(tmp_path: Path) -> None:
    root, values = linked(tmp_path), instances()
    names = {image["id"]: image["file_name"] for image in values["images"]}
    captions = {
        key_of(names[one["image_id"]], one["bbox"]): f"region {one['id']}"
        for one in values["annotations"]
        if one["id"] % 10  # of every tenth there is none
    }
    gone = values["images"].pop()
    values["annotations"] = [one for one in values["annotations"] if one["image_id"] != gone["id"]]
    config = [str(PRESETS / "datasets/coco.yaml"), TRIAL]
    config.append(overlay(tmp_path, {"plan": {"regions": "proposals", "captions": "released"}}))

    absent = snakemake(tmp_path, "--dry-run", "card", "--configfile", *config)
    assert absent.returncode == 2
    assert absent.stderr.splitlines()[-1].startswith(
        "detect.proposals.path: data/coco/coco_proposals.json: no such file."
    )

    write_json(root / "coco_proposals.json", values)
    write_json(root / "coco_captions.json", captions)
    run_all(tmp_path, "card", "--configfile", *config)
    assert planned(tmp_path, "card", "--configfile", *config) == {}
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text("detect: {proposals: {max_regions: 3}}\n")
    again = planned(tmp_path, "card", "--configfile", *config, str(fewer))
    assert again == {
        "detect_shard": 1,
        "caption_shard": 1,
        "pack_shard": 1,
        "data_card": 1,
    }  # the JSON is not read again
    data = tmp_path / "data/coco2017-trial"
    detected = read_manifest(data / "detect/proposals/coco-0000.json")
    assert (detected.read, detected.kept, detected.dropped) == (80, 79, {"not-listed": 1})
    captioned = read_manifest(data / "caption/proposals.released/coco-0000.json")
    assert captioned.regions == detected.regions > 600
    assert 0.05 < captioned.uncaptioned["missing-key"] / captioned.regions < 0.15
    assert read_manifest(data / "given/detect/proposals.json").read == 79
    check_captions(data / "pack/proposals.released/coco-0000.json", captions)
    card = (data / "pack/proposals.released/card.md").read_text()
    assert f"{captioned.uncaptioned['missing-key']} of the regions have no caption" in card


def check_captions(packed: Path, captions: dict[str, str]) -> None:
    """Every caption that there is has come to a region, and every region without one has no key."""
    with ByteRangeReader() as reader:
        rows = kept_rows(packed, PackRow)
        regions = [one for row in rows for one in read_sample(reader, packed.with_suffix(".tar"), row).regions]
    found = [region.caption for region in regions if region.caption]
    assert len(found) > 500
    assert set(found) <= set(captions.values())
    assert len(set(found)) == len(found)


def test_lvis_from_json_to_a_training_that_needs_no_text(tmp_path: Path) -> None:
    root, values = linked(tmp_path), instances()
    for image in values["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    for category in values["categories"]:
        category["name"] = category["name"].replace(" ", "_")
    write_json(root / "annotations/lvis_v1_train.json", values)
    config = [str(PRESETS / "datasets/lvis.yaml"), TRIAL]
    config.append(overlay(tmp_path, {"train": {"max_steps": 4, "warmup_steps": 1, "batch_size": 8}}))
    run_all(tmp_path, "card", "train", "--configfile", *config)
    assert (tmp_path / "results/lvis.v1-trial/clipself-mini-all-s0/model.safetensors").is_file()
    data = tmp_path / "data/lvis.v1-trial"
    packed = read_manifest(data / "pack/annotations.template/coco-0000.json")
    assert packed.read == packed.kept == 80
    labels = {
        one.label for row in kept_rows(data / "detect/annotations/coco-0000.json", DetectRow) for one in row.regions
    }
    assert any("_" in label for label in labels)
    with ByteRangeReader() as reader:
        row = next(kept_rows(data / "pack/annotations.template/coco-0000.json", PackRow))
        sample = read_sample(reader, data / "pack/annotations.template/coco-0000.tar", row)
    assert sample.captions == ()
    assert all(region.caption and "_" not in region.caption for region in sample.regions)
