"""Audit of a data set: everything that a stage would stop on or drop, found with the readers and rules of the stages.

    source rows -> headers and hashes -> rules of the filter -> boxes -> overlap with the benchmarks

A sample is uniform: the first rows of the shuffled index, or the first shards of tars in their shuffled order. Nothing is
decoded, and nothing is written here.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from fineclip.check.boxes import BoxAudit
from fineclip.check.captions import LONG, CaptionCounts
from fineclip.check.findings import NOTE, WARNING, Example, Findings, Picture
from fineclip.check.headers import Measured, measured
from fineclip.config import (
    CaptionsJsonCaption,
    CocoSource,
    Config,
    FilterConfig,
    FolderSource,
    MiniatureSource,
    WebDatasetSource,
)
from fineclip.config.evaluation import MiniatureTest
from fineclip.errors import FineclipError
from fineclip.evals.index import benchmark_data, benchmark_row, missing, require_some
from fineclip.shards import BenchmarkRow, SourceRow
from fineclip.stages.external.reading import captions_of_entry
from fineclip.stages.filter import FILTER, apply_rules, caption_rejection_reason
from fineclip.stages.source import SOURCE
from fineclip.stages.source.coco import coco_samples
from fineclip.stages.source.folder import folder_samples
from fineclip.stages.source.shard import shuffled
from fineclip.stages.source.shard_plan import longest_prefix, planned_shards
from fineclip.stages.source.webdataset import tar_samples
from fineclip.types import Candidate


@dataclass
class Audit:
    """Result of an audit.

    Attributes:
        findings: What was found.
        images: Number of rows that were read.
        complete: Whether all rows of the source were read, and not a sample.
        overlap: Images of the source that are images of a benchmark, by benchmark.
    """

    findings: Findings = field(default_factory=Findings)
    images: int = 0
    complete: bool = True
    overlap: Counter[str] = field(default_factory=Counter)


def audit(config: Config, *, images: int | None, processes: int) -> Audit:
    """Read what the configuration names and count what is found. Errors of readers become findings.

    Args:
        config: Validated configuration.
        images: Rows of the source to read; None reads all.
        processes: Processes that read images.

    Returns:
        Findings and counts.
    """
    result = Audit()
    benchmarks = {name: _benchmark_hashes(name, config, result.findings) for name in config.plan.benchmarks}
    boxes = BoxAudit(config, result.findings)
    _audit_captions_json(config, result.findings)
    rows = _first(_rows(config, result.findings), images, result)
    sizes, captions = Counter[tuple[int, int]](), CaptionCounts()
    for row, image, reason in _filtered(rows, config.filter, processes):
        example = Example(f"{row.source_key}: {_first_caption(row)}", _picture(row))
        if image.error is not None:
            text = f"images that cannot be read: {image.error}"
            result.findings.add("source", text, "error", kind="cannot be read", count=1, example=example)
            continue
        sizes[image.width, image.height] += 1
        for caption in row.captions:
            captions.add(caption)
        if reason is not None:
            result.findings.add("filter", f"{reason}: {FILTER.reasons[reason]}", count=1, example=example)
        else:
            boxes.add(row, image)
            _add_rejected(row, config.filter, result.findings)
        for name, hashes in benchmarks.items():
            if image.sha256 in hashes:
                result.overlap[name] += 1
                _tally_overlap(name, config, result.findings, example)
    boxes.finish()
    for part in ("source", "filter"):
        result.findings.state_totals(part, result.images)
    _describe(sizes, captions, result.findings)
    return result


def _first(rows: Iterator[SourceRow], images: int | None, result: Audit) -> Iterator[SourceRow]:
    """Yield the kept ones of the first rows; count all of them, and tally the dropped ones by reason."""
    for row in islice(rows, images):
        result.images += 1
        if row.kept:
            yield row
        else:
            example = Example(row.source_key, _picture(row) if row.size else None)
            result.findings.add("source", f"{row.reason}: {SOURCE.reasons[row.reason or '']}", count=1, example=example)
    result.complete = next(rows, None) is None


def _rows(config: Config, findings: Findings) -> Iterator[SourceRow]:
    """Yield the rows of a source in the order in which scales use them, with keys SHARD/NUMBER. An error ends those of its tar."""
    match config.source:
        case FolderSource() | CocoSource() as source:
            rows = _without_error(partial(_listed, source), findings)
            for number, row in enumerate(rows):
                yield replace(row, key=f"{number // source.images_per_shard}/{number}")
        case WebDatasetSource() as source:
            for shard in longest_prefix(config, planned_shards(source)):
                rows = chain.from_iterable(_without_error(partial(_in_tar, tar), findings) for tar in shard.tars)
                for number, row in enumerate(rows):
                    yield replace(row, key=f"{shard.name}/{number}")
        case MiniatureSource():
            findings.add("source", "the package draws the images: nothing to check", "note")


def _in_tar(tar: str) -> Iterator[SourceRow]:
    return tar_samples([tar]).rows


def _listed(source: FolderSource | CocoSource) -> list[SourceRow]:
    """Return the rows in the order of the index."""
    samples = folder_samples(source) if isinstance(source, FolderSource) else coco_samples(source)
    return shuffled(samples.rows, source.seed)


def _without_error(rows: Callable[[], Iterable[SourceRow]], findings: Findings) -> Iterator[SourceRow]:
    """Yield rows; an error of a reader becomes a finding and ends them. What the readers log becomes findings."""
    try:
        with findings.from_log("source"):
            yield from rows()
    except FineclipError as error:
        findings.add("source", str(error), "error")


def _filtered(
    rows: Iterable[SourceRow], config: FilterConfig, processes: int
) -> Iterator[tuple[SourceRow, Measured, str | None]]:
    """Yield each row with its header and the reason for which the filter drops it, or None."""
    waiting = deque[tuple[SourceRow, Measured]]()

    def candidates() -> Iterator[Candidate]:
        for row, image in measured(rows, processes=processes):
            waiting.append((row, image))
            yield Candidate(row.source_key, image.width, image.height, tuple(row.captions), image.sha256)

    for reason in apply_rules(candidates(), config):
        yield (*waiting.popleft(), reason)


def _benchmark_hashes(name: str, config: Config, findings: Findings) -> frozenset[str]:
    """Read a benchmark as its index does; return the hashes of its images."""
    part, benchmark = f"benchmarks.{name}", config.benchmarks[name]
    if isinstance(benchmark.source, MiniatureTest):
        return frozenset()
    if absent := missing(benchmark):
        findings.add(part, f"is left out: {absent}", "error" if benchmark.if_missing == "error" else "warning")
        return frozenset()
    rows: list[BenchmarkRow] = []
    try:
        with findings.from_log(part):
            images = benchmark_data(benchmark, Path(), name).read().images
            rows.extend(benchmark_row("", image, benchmark) for image in images)
        require_some(rows, name, benchmark)
    except FineclipError as error:
        findings.add(part, str(error), "error")
    findings.add(part, "images", "note", count=len(rows))
    for row in rows:
        if not row.kept:
            picture = Picture(row.file, row.offset, row.size)
            findings.add(part, f"images dropped: {row.reason}", count=1, example=Example(row.file, picture))
    return frozenset(row.sha256 for row in rows)


def _tally_overlap(name: str, config: Config, findings: Findings, example: Example) -> None:
    """Count an image of the source that is an image of a benchmark."""
    text, severity = f"images of the source are in it and are trained on: add {name} to select.exclude", WARNING
    if name in config.select.exclude:
        text, severity = "images of the source are in it; select leaves them out", NOTE
    findings.add(f"benchmarks.{name}", text, severity, count=1, example=example)


def _audit_captions_json(config: Config, findings: Findings) -> None:
    entry, part = config.caption[config.captions], f"caption.{config.captions}"
    if isinstance(entry, CaptionsJsonCaption):
        try:
            with findings.from_log(part):
                regions = sum(len(row.regions) for row in captions_of_entry(entry))
            findings.add(part, "captions of regions", "note", count=regions)
        except FineclipError as error:
            findings.add(part, str(error), "error")


def _describe(sizes: Mapping[tuple[int, int], int], captions: CaptionCounts, findings: Findings) -> None:
    """Add notes about the sizes of images and the scripts and lengths of captions."""
    if sizes:
        sides = sorted((min(size), size) for size in Counter(sizes).elements())
        (_, least), (_, middle), (_, most) = sides[0], sides[len(sides) // 2], sides[-1]
        text = "images; the shorter side of the smallest, median and largest"
        shown = ", ".join(f"{width} x {height}" for width, height in (least, middle, most))
        findings.add("source", text, "note", count=len(sides), example=Example(shown))
    for script, count in captions.scripts.most_common():
        text = "captions without a letter" if script == "none" else f"captions in {script.title()} letters"
        findings.add("source", text, "note", count=count, of=captions.captions)
    if captions.long:
        findings.add(
            "source",
            f"captions of more than {LONG} words; encoders with 77 tokens cut them",
            "note",
            count=captions.long,
            of=captions.captions,
        )


def _add_rejected(row: SourceRow, config: FilterConfig, findings: Findings) -> None:
    """Count the captions of a kept image that the filter rejects."""
    for caption in row.captions:
        if reason := caption_rejection_reason(caption, config):
            example = Example(f"{row.source_key}: {caption}", _picture(row))
            findings.add("filter", f"captions left out as {reason}: {FILTER.reasons[reason]}", count=1, example=example)


def _first_caption(row: SourceRow) -> str:
    return row.captions[0] if row.captions else "no caption"


def _picture(row: SourceRow) -> Picture | None:
    return Picture(row.file, row.offset, row.size) if row.file else None
