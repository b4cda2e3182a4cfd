"""Boxes of the samples of an audit: the rules of stage `detect` for given boxes, the sizes of boxes, and the names of classes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from fineclip.check.findings import Example, Findings, Picture
from fineclip.check.headers import Measured
from fineclip.config import AnnotationsDetect, BoxesFilesDetect, BoxesJsonDetect, Config, YoloDetect
from fineclip.errors import FineclipError
from fineclip.readers.names import ImageNames
from fineclip.shards import DetectRow, FilterRow, SourceRow
from fineclip.stages.detect import DETECT
from fineclip.stages.external.annotation_tables import ExternalBoxesRow
from fineclip.stages.external.reading import boxes_of_entry
from fineclip.stages.given_boxes import StoredSample, boxes_of, given_rows, require_boxes_of_shard
from fineclip.types import LabeledBox

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
        self._config = None if isinstance(entry, YoloDetect) else entry
        self._samples: list[tuple[FilterRow, SourceRow]] = []
        self._turned: list[bool] = []
        self._classes, self._boxes = Counter[str](), 0
        self._listed: list[ExternalBoxesRow] = []
        self._names: ImageNames | None = None
        if isinstance(entry, BoxesJsonDetect | BoxesFilesDetect):
            self._read_entry(entry)

    def add(self, row: SourceRow, image: Measured) -> None:
        """Add a sample that the filter keeps. The samples of a shard, SHARD of their keys SHARD/NUMBER, follow one another."""
        if self._config is None:
            return
        header = FilterRow(
            key=row.key, kept=True, width=image.width, height=image.height, format=image.format, sha256=image.sha256
        )
        if self._samples and _shard_of(self._samples[-1][1]) != _shard_of(row):
            self._flush()
        self._samples.append((header, row))
        self._turned.append(image.turned)

    def finish(self) -> None:
        """Add the findings about the samples that remain, and about classes."""
        self._flush()
        if self._boxes:
            self._findings.add(self._part, "boxes", "note", count=self._boxes)
            self._add_classes()

    def _read_entry(self, config: BoxesJsonDetect | BoxesFilesDetect) -> None:
        try:
            with self._findings.from_log(self._part):
                self._listed = boxes_of_entry(config)
                self._names = ImageNames([row.key for row in self._listed], where=config.path)
        except FineclipError as error:
            self._findings.add(self._part, str(error), "error")
            self._config = None

    def _flush(self) -> None:
        """Apply the rules of `detect` to the samples that wait."""
        samples, turned, self._samples, self._turned = self._samples, self._turned, [], []
        if self._config is None or not samples:
            return
        where = "the source" if isinstance(self._config, AnnotationsDetect) else self._config.path
        left_out = Counter[str]()
        try:
            external = self._external(samples)
            with self._findings.from_log(self._part):
                require_boxes_of_shard(samples, self._config, external, where=where)
            stored = [_stored(*sample, turned=one) for sample, one in zip(samples, turned, strict=True)]
            rows = given_rows(stored, self._config, external, left_out)
            for (_, source), row in zip(samples, rows, strict=True):
                self._add_row(source, row, external)
        except FineclipError as error:
            self._findings.add(self._part, str(error), "error", kind=f"{type(error).__name__} of boxes")
        for why, count in sorted(left_out.items()):
            self._findings.add(self._part, f"boxes left out: {why}", count=count)

    def _external(self, samples: Sequence[tuple[FilterRow, SourceRow]]) -> dict[str, ExternalBoxesRow]:
        """Return the rows of the entry by the keys of the samples."""
        if self._names is None:
            return {}
        places = {source.key: self._names.find(source.source_key) for _, source in samples}
        return {key: self._listed[place] for key, place in places.items() if place is not None}

    def _add_row(self, source: SourceRow, row: DetectRow, external: Mapping[str, ExternalBoxesRow]) -> None:
        if self._config is None:
            return
        given = boxes_of(source, self._config, external, width=row.width, height=row.height)
        boxes = [LabeledBox(one.box, one.label) for one in given.boxes] if given else []
        picture = Picture(source.file or "", source.offset, source.size, tuple(boxes))
        stated = ""
        if given and given.size.is_other_than(row.width, row.height):
            stated = f", stated as {given.size.width} x {given.size.height}"
        example = Example(f"{source.source_key}, {row.width} x {row.height} pixels{stated}", picture)
        if not row.kept:
            text = f"{row.reason}: {DETECT.reasons[row.reason or '']}"
            self._findings.add(self._part, text, count=1, example=example)
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


def _shard_of(row: SourceRow) -> str:
    return row.key.partition("/")[0]


def _stored(header: FilterRow, source: SourceRow, *, turned: bool) -> StoredSample:
    row = DetectRow(key=source.key, kept=True, width=header.width, height=header.height, regions=[])
    return StoredSample(source, row, turned)
