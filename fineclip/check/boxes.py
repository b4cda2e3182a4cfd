"""Boxes of the samples of an audit: the rules of stage `detect` for given boxes, the sizes of boxes, and the names of classes."""

from collections import Counter
from pathlib import Path

from fineclip.boxes import from_xywh
from fineclip.check.findings import Example, Findings, Picture
from fineclip.check.headers import Measured
from fineclip.config import AnnotationsDetect, BoxesJsonDetect, Config
from fineclip.errors import FineclipError
from fineclip.readers.names import ImageNames
from fineclip.shards import DetectRow, SourceRow
from fineclip.stages.detect import DETECT, DecodedSample, given_rows
from fineclip.stages.external.annotation_tables import ExternalBoxesRow
from fineclip.stages.external.reading import boxes_in
from fineclip.types import LabeledBox

SAMPLES_AT_ONCE = 5000  # as many as a shard has by default: the boxes of a shard decide about their unit
HUGE = 0.95  # of the area of the image


class BoxAudit:
    """Audit of the boxes that the planned entry of `detect` takes, if it takes given boxes.

    Args:
        config: Validated configuration.
        findings: Where findings are added.
    """

    def __init__(self, config: Config, findings: Findings) -> None:
        entry = config.detect[config.regions]
        self._part, self._findings = f"detect.{config.regions}", findings
        self._config = entry if isinstance(entry, AnnotationsDetect | BoxesJsonDetect) else None
        self._samples: list[DecodedSample] = []
        self._classes, self._boxes, self._images = Counter[str](), 0, 0
        self._listed: list[ExternalBoxesRow] = []
        self._names: ImageNames | None = None
        if isinstance(entry, BoxesJsonDetect):
            self._read_json(entry)

    def add(self, row: SourceRow, image: Measured) -> None:
        """Add a sample that the filter keeps."""
        if self._config is None:
            return
        detected = DetectRow(key=row.key, kept=True, width=image.width, height=image.height, regions=[])
        self._samples.append(DecodedSample(row, detected, None))
        if len(self._samples) == SAMPLES_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """Add the findings about the samples that remain, and about classes."""
        self._flush()
        if self._boxes:
            self._findings.add(self._part, "boxes", "note", count=self._boxes)
            self._add_classes()

    def _read_json(self, config: BoxesJsonDetect) -> None:
        try:
            with self._findings.from_log(self._part):
                self._listed = list(boxes_in(Path(config.path), config))
                self._names = ImageNames([row.key for row in self._listed], where=config.path)
        except FineclipError as error:
            self._findings.add(self._part, str(error), "error")
            self._config = None

    def _flush(self) -> None:
        """Apply the rules of `detect` to the samples that wait."""
        samples, self._samples = self._samples, []
        if self._config is None or not samples:
            return
        left_out = Counter[str]()
        try:
            external = self._external(samples)
            for sample, row in zip(samples, given_rows(samples, self._config, external, left_out), strict=True):
                self._add_row(sample.source, row, external.get(sample.source.key))
        except FineclipError as error:
            self._findings.add(self._part, str(error), "error", kind=type(error).__name__)
        for why, count in sorted(left_out.items()):
            self._findings.add(self._part, f"boxes left out: {why}", count=count)

    def _external(self, samples: list[DecodedSample]) -> dict[str, ExternalBoxesRow]:
        """Return the rows of the JSON by the keys of the samples."""
        if self._names is None:
            return {}
        places = {source.key: self._names.find(source.source_key) for source, _, _ in samples}
        return {key: self._listed[place] for key, place in places.items() if place is not None}

    def _add_row(self, source: SourceRow, row: DetectRow, listed: ExternalBoxesRow | None) -> None:
        boxes = source.annotations or []
        if listed is not None:
            boxes = [LabeledBox(from_xywh(*one[:4]), one.label) for one in listed.regions]
        picture = Picture(source.file or "", source.offset, source.size, tuple(boxes))
        example = Example(f"{source.source_key}, {row.width} x {row.height}", picture)
        self._images += 1
        if not row.kept:
            self._findings.add(
                self._part, f"{row.reason}: {DETECT.reasons[row.reason or '']}", count=1, of=None, example=example
            )
            return
        self._boxes += len(row.regions)
        self._classes.update(region.label for region in row.regions)
        huge = sum(one.box.width * one.box.height > HUGE * row.width * row.height for one in row.regions)
        if huge:
            text = f"boxes that cover more than {HUGE:.0%} of their image"
            self._findings.add(self._part, text, "note", count=huge, example=example)

    def _add_classes(self) -> None:
        """Add notes and warnings about the names of classes."""
        most = ", ".join(f"{label or '(no name)'} {count:,}" for label, count in self._classes.most_common(3))
        self._findings.add(self._part, "classes", "note", count=len(self._classes), example=Example(most))
        spellings: dict[str, list[str]] = {}
        for label in self._classes:
            spellings.setdefault(" ".join(label.casefold().replace("_", " ").split()), []).append(label)
        twice = [labels for labels in spellings.values() if len(labels) > 1]
        if twice:
            text = "classes whose names differ only by case, spaces or underscores"
            self._findings.add(self._part, text, count=len(twice), example=Example(" and ".join(map(repr, twice[0]))))
        unnamed = [label for label in self._classes if not any(map(str.isalpha, label))]
        if unnamed:
            text = "classes whose names have no letter: a region is captioned by the name of its class"
            self._findings.add(self._part, text, count=len(unnamed), example=Example(repr(unnamed[0])))
