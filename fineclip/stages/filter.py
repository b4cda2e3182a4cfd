"""Keep or drop every image of one source shard, each with a reason.

The rules run in the order of `RULES`; the first that objects gives the reason. In that order:

    unreadable             no decoder we trust can read the header, or it promises more pixels than we decode
    too-small              the shorter side is under `min_side_px`
    too-elongated          the longer side is over `max_aspect` times the shorter
    caption-empty          no text but blanks
    caption-short          fewer than `min_words` words; words are what blanks separate
    caption-long           more than `max_words` words
    caption-boilerplate    the text as a whole matches one of `boilerplate`
    duplicate              these very bytes were kept before in this shard (`select` leaves out those of earlier shards)

An image with several captions is dropped only if none of them is good, for what is wrong with the first; `pack` takes
those that are, by the same `good_captions`. Under `min_words: 0` an image without any text but blanks is kept, without
captions. Sizes come from the first bytes of the file, so no pixel is decoded here.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from fineclip.config import FilterConfig
from fineclip.shards import ByteRangeReader, FilterRow, Job, SourceRow, TableWriter, kept_rows
from fineclip.shards.images import Header, read_header
from fineclip.types import Candidate

VERSION = 2  # of the rows this file writes: a change of it makes them again

Rule = Callable[[Candidate, FilterConfig], str | None]


def unreadable(image: Candidate, _: FilterConfig) -> str | None:
    """No header."""
    return "unreadable" if image.width == 0 else None


def too_small(image: Candidate, config: FilterConfig) -> str | None:
    """The shorter side."""
    return "too-small" if min(image.width, image.height) < config.min_side_px else None


def too_elongated(image: Candidate, config: FilterConfig) -> str | None:
    """Either way."""
    shorter, longer = sorted((image.width, image.height))
    return "too-elongated" if longer > config.max_aspect * shorter else None


def without_good_caption(image: Candidate, config: FilterConfig) -> str | None:
    """What is wrong with the first caption, where none is good."""
    if good_captions(image.captions, config) or may_be_silent(image.captions, config):
        return None
    return caption_fault(image.captions[0], config) if image.captions else "caption-empty"


RULES: tuple[Rule, ...] = (unreadable, too_small, too_elongated, without_good_caption)


def good_captions(captions: Sequence[str], config: FilterConfig) -> list[str]:
    """Those of an image's captions that may be trained on, in order."""
    return [caption for caption in captions if caption_fault(caption, config) is None]


def may_be_silent(captions: Sequence[str], config: FilterConfig) -> bool:
    """Whether an image with these captions, which say nothing at all, is kept all the same."""
    return config.min_words == 0 and not any(caption.strip() for caption in captions)


def caption_fault(caption: str, config: FilterConfig) -> str | None:
    """The reason to leave a caption out, None for a good one."""
    words = caption.split()
    if not words:
        return "caption-empty"
    if len(words) < config.min_words:
        return "caption-short"
    if len(words) > config.max_words:
        return "caption-long"
    text = " ".join(words)
    return "caption-boilerplate" if any(one.fullmatch(text) for one in _compiled(config.boilerplate)) else None


@cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def judge(images: Iterable[Candidate], config: FilterConfig) -> Iterator[str | None]:
    """For each image of a shard, in order, the reason to drop it; None for those that are kept."""
    kept: set[str] = set()
    for image in images:
        reason = next((slug for rule in RULES if (slug := rule(image, config))), None)
        if reason is None and image.sha256 in kept:
            reason = "duplicate"
        if reason is None:
            kept.add(image.sha256)
        yield reason


def filter_shard(source: Path, manifest: Path, config: FilterConfig) -> None:
    """Write the table of one shard, a row for each image, and then its `manifest`.

    Args:
        source: manifest of the source shard.
        manifest: what is written last; its table lies beside it.
        config: the rules' limits.

    Raises:
        ShardError: a file that `source` names is gone, cut short or not the one it was. Nothing is written then.
    """
    job = Job(manifest, stage="filter", version=VERSION, config=config, inputs=[source])
    if job.is_done():
        return
    with ByteRangeReader() as reader:
        looked_at = [_look_at(row, reader) for row in kept_rows(source, SourceRow)]
    reasons = judge((image for image, _ in looked_at), config)
    with TableWriter(job, FilterRow) as table:
        for (image, header), reason in zip(looked_at, reasons, strict=True):
            row = FilterRow(
                key=image.key,
                kept=reason is None,
                reason=reason,
                width=image.width,
                height=image.height,
                format=header.format if header else None,
                sha256=image.sha256,
            )
            table.write(row)


def _look_at(row: SourceRow, reader: ByteRangeReader) -> tuple[Candidate, Header | None]:
    content = reader.read(row.file or "", row.offset, row.size)
    header = read_header(content)
    width, height = (header.width, header.height) if header else (0, 0)
    return Candidate(row.key, width, height, tuple(row.captions), hashlib.sha256(content).hexdigest()), header
