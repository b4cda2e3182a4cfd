"""The card's counts are those of the manifests and add up; what does not belong together is refused; its code runs."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fineclip.config import AnnotationsDetect, FilterConfig, PackConfig, TemplateCaption
from fineclip.errors import ShardError
from fineclip.shards import Manifest, read_manifest, sha256_of, write_text
from fineclip.stages.caption import caption_shard
from fineclip.stages.card import Contents, StageProvenance, checked_chain, provenance, render, write_card
from fineclip.stages.card import funnel as funnel_of_chains
from fineclip.stages.detect import detect_shard
from fineclip.stages.funnel import StageCounts
from fineclip.stages.pack import pack_shard
from tests.helpers.images import encoded
from tests.helpers.stages import Item, box, write_filtered

GOOD = [box(0, 0, 5, 5), box(0, 0, 6, 6, "dog")]
CUT = encoded(200, 100)[:-40]
SHARDS = {
    "s0": [Item(encoded(color=1), annotations=GOOD), Item(b"<html>", annotations=[]), Item(CUT, annotations=[])],
    "s1": [
        Item(encoded(color=2), annotations=[]),
        Item(encoded(color=2), annotations=[]),
        Item(encoded(color=3, kind="PNG"), annotations=GOOD[:1]),
        Item(encoded(color=4, kind="WEBP"), annotations=GOOD[:1]),
    ],
}


def pack(name: str, items: Sequence[Item], *, template: str = "a {label}") -> Path:
    """One shard from source to pack, paths as seen from the working directory."""
    data = Path("data/mine")
    kept = write_filtered(data, items, name=name, config=FilterConfig(min_side_px=1, min_words=1))
    detected, captioned = data / f"detect/own/{name}.json", data / f"caption/own.words/{name}.json"
    own = AnnotationsDetect(engine="annotations", min_side_px=1)
    detect_shard(kept, detected, own, weights=None, batch_size=1, device="cpu")
    words = TemplateCaption(engine="template", template=template)
    caption_shard(detected, captioned, words, weights=None, batch_size=1, device="cpu")
    manifest = data / f"pack/own.words/{name}.json"
    pack_shard(captioned, manifest, PackConfig())
    return manifest


def funnel(packed: Sequence[Path]) -> list[StageCounts]:
    return funnel_of_chains([checked_chain(path) for path in packed])


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [pack(name, items) for name, items in SHARDS.items()]


def test_the_funnel_sums_over_shards(packed: list[Path]) -> None:
    assert funnel(packed) == [
        StageCounts("source", 7, 7, {}, 0),
        StageCounts("filter", 7, 5, {"unreadable": 1, "duplicate": 1}, 0),
        StageCounts("detect", 5, 4, {"undecodable": 1}, 4),
        StageCounts("caption", 4, 4, {}, 4),
        StageCounts("pack", 4, 4, {}, 4),
    ]


def test_the_card_and_its_manifest(packed: list[Path]) -> None:
    manifest = packed[0].with_name("card.json")
    write_card(packed, manifest, PackConfig())
    text = manifest.with_suffix(".md").read_text()
    assert text.startswith("# Data card: mine own.words\n")
    assert "4 images with 4 captioned regions (1.00 an image; 1 images have none, the richest has 2)" in text
    assert "| filter | 7 | 5 | 1 unreadable, 1 duplicate | 0 |" in text
    assert "| detect | 5 | 4 | 1 undecodable | 4 |" in text
    assert "**caption** template" in text
    assert '  * template: "a {label}"' in text
    made = read_manifest(manifest)
    assert (made.stage, made.read, made.kept, made.regions) == ("card", 7, 4, 4)
    assert made.dropped == {"filter/unreadable": 1, "filter/duplicate": 1, "detect/undecodable": 1}
    assert made.outputs == {"card.md": sha256_of(manifest.with_suffix(".md"))}


def test_the_example_of_the_card_runs(
    packed: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = packed[0].with_name("card.json")
    write_card(packed[1:], manifest, PackConfig())
    [code] = re.findall(r"```python\n(.*?)```", manifest.with_suffix(".md").read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(manifest.parent)
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[1].startswith("(16, 12) ['a thing'] [{'box': [0.0, 0.0, 5.0, 5.0]")


def test_weights_and_their_licence_are_named() -> None:
    config = {"engine": "yolo", "iou": 0.6, "weights": {"shipped": "detector.pt", "license": "AGPL-3.0"}}
    made_by = [StageProvenance("filter", {}, {}), StageProvenance("detect", config, {"shipped:detector.pt": "ab12"})]
    text = render("mine", Contents({}, 0, 0, ""), [], made_by)
    assert "**filter**: the defaults" in text
    assert "**detect** yolo\n  * iou: 0.6\n  * weights: shipped:detector.pt, sha256 ab12, license AGPL-3.0" in text


def test_regions_without_captions_are_told() -> None:
    rows = [StageCounts("caption", 2, 2, {}, 5, {"missing-key": 2, "empty": 1})]
    text = render("mine", Contents({2: 1, 3: 1}, 1, 10, "s.tar"), rows, [])
    assert "2 images with 5 regions (" in text
    assert "bytes together. 3 of the regions have no caption (2 missing-key, 1 empty).\n" in text


def test_a_card_that_is_there_is_left_alone(packed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = packed[0].with_name("card.json")
    write_card(packed, manifest, PackConfig())
    monkeypatch.setattr("fineclip.stages.card.checked_chain", lambda _: pytest.fail("the card was made again"))
    write_card(packed, manifest, PackConfig())


def changed(path: Path, **changes: object) -> None:
    write_text(path, replace(read_manifest(path), **changes).text())  # type: ignore[arg-type]


def test_a_stage_made_again_below_is_found(packed: list[Path]) -> None:
    changed(Path("data/mine/filter/s1.json"), version=99)
    with pytest.raises(ShardError, match="detect/own/s1.json: was made from another data/mine/filter/s1.json"):
        funnel(packed)


def test_counts_that_do_not_add_up_are_found(packed: list[Path]) -> None:
    changed(packed[0], read=3)
    with pytest.raises(ShardError, match=r"s0.json: read 3, but data/mine/caption/own.words/s0.json kept 1"):
        funnel(packed)
    changed(packed[0], read=1, dropped={"lost": 2})
    with pytest.raises(ShardError, match=r"s0.json: read 1, but kept and dropped 3"):
        funnel(packed)


def test_a_manifest_that_is_gone_is_found(packed: list[Path]) -> None:
    Path("data/mine/filter/s0.json").unlink()
    with pytest.raises(ShardError, match="detect/own/s0.json: names no manifest of filter"):
        funnel(packed)


def test_what_is_not_packed_is_refused(packed: list[Path]) -> None:
    with pytest.raises(ShardError, match="is a manifest of caption; expected pack"):
        funnel([Path("data/mine/caption/own.words/s0.json")])


def test_shards_made_differently_are_refused(packed: list[Path]) -> None:
    other = pack("s2", SHARDS["s0"], template="the {label}")
    assert funnel([*packed, other])[0].read == 10
    with pytest.raises(ShardError, match="stage caption made some of them as .*the .label."):
        write_card([*packed, other], packed[0].with_name("card.json"), PackConfig())


def test_shards_made_with_other_weights_are_refused(packed: list[Path]) -> None:
    chains = [checked_chain(path) for path in packed]
    for number, chain in enumerate(chains):
        weights = Path(f"weights/{number}.json")
        write_text(weights, Manifest("weights", 1, {}, {}, {"yolo.pt": str(number)}).text())
        chain["detect"] = replace(chain["detect"], inputs={**chain["detect"].inputs, weights.as_posix(): "0"})
    with pytest.raises(ShardError, match="stage detect made some of them as"):
        list(provenance(chains))
