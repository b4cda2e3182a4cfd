"""Cases of what comes last: a training of three steps, and the text of the report."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fineclip.config import RuntimeConfig, parse
from fineclip.methods import METHODS
from fineclip.report.page import write_report
from fineclip.shards import read_manifest
from fineclip.train.run import RunConfig, train_run
from tests.helpers.packs import write_world
from tests.report.world import build_world, config_of
from tests.versions.inputs import digits
from tests.versions.registry import case
from tests.versions.worlds import WEIGHTS, write_encoder

TRAIN = {
    "batch_size": 4,
    "epochs": 2,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "log_every_steps": 1,
    "max_regions": 2,
    "max_grad_norm": 1.0,
}


@case("train.run", after=("methods.fineclip",), relative=2e-3, absolute=1e-6)
def three_steps() -> dict[str, Any]:
    """The last line of the metrics, and what the manifest says."""
    encoder = write_encoder()
    select, packed = write_world(Path("data"), {"a": 6, "b": 3})
    values = {"method": "fineclip", "method_version": METHODS["fineclip"].version, "encoder": encoder, "options": {}}
    manifest = Path("results/set/run/train.json")
    config = parse(RunConfig, values | {"train": TRAIN}, where="train")
    train_run(select, packed, WEIGHTS, manifest, config, runtime=RuntimeConfig(device="cpu"))
    lines = [json.loads(line) for line in manifest.with_name("metrics.jsonl").read_text().splitlines()]
    made = read_manifest(manifest)
    return {
        "lines": len(lines),
        "last": {name: digits(value, 3) if isinstance(value, float) else value for name, value in lines[-1].items()},
        "inputs": list(made.inputs),
        "outputs": list(made.outputs),
        "counts": {"read": made.read, "kept": made.kept, "dropped": dict(made.dropped), "regions": made.regions},
    }


@case("report.page")
def words_of_the_page() -> dict[str, Any]:
    """Of a made-up tree, without what says when and where it was made."""
    config = config_of(seeds=[0, 1])
    world = build_world(Path(), config)
    write_report(config, Path("report.html"), root=world.root)
    page = Words()
    page.feed(Path("report.html").read_text(encoding="utf-8"))
    return {name: words for name, words in page.sections.items() if name not in ("provenance", "bottom")}


KINDS = {"h1": "titles", "h2": "titles", "h3": "titles", "strong": "titles"} | {
    "dt": "facts", "dd": "facts", "p": "text", "li": "text"
}  # fmt: skip


class Words(HTMLParser):
    """Titles, tables, facts and plain text of each section, by its anchor; links of the navigation; no markup."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, dict[str, list[Any]]] = {"top": {}}
        self._section, self._open = "top", ""
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "section":
            self._section = given["id"] or ""
            self.sections[self._section] = {}
        elif tag == "a":
            self._put("links", given.get("href"))
        elif tag == "tr":
            self._put("tables", [])
        elif tag in ("th", "td", *KINDS):
            self._open, self._words = tag, []

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = "bottom"
            self.sections.setdefault("bottom", {})
        if tag != self._open:
            return
        self._open, text = "", re.sub(r"\s+", " ", "".join(self._words)).strip()
        if tag in ("th", "td"):
            self.sections[self._section]["tables"][-1].append(text)
        else:
            self._put(KINDS[tag], text)

    def _put(self, kind: str, value: Any) -> None:
        self.sections[self._section].setdefault(kind, []).append(value)
