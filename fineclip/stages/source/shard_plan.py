"""Shards of a source in the order of a seed, known before the first job from names alone.

    miniature      in order, because every scene is random
    folder, coco   the number of image files determines the number of shards; the index shuffles the samples
    webdataset     tars sorted by name and grouped into shards; shards sorted by SHA-256 of seed and name

A prefix of the list is therefore a uniform sample. Imports nothing heavy: the Snakefile uses it.
"""

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path, PurePosixPath

from fineclip.config import (
    CocoSource,
    Config,
    FolderSource,
    MiniatureSource,
    ScaleConfig,
    SourceConfig,
    WebDatasetSource,
)
from fineclip.errors import ConfigError, DataError
from fineclip.readers.files import is_image, list_files, require_images

log = logging.getLogger(__name__)

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4"})


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is made: number `position` of `of`; `tars` are its files for kind webdataset."""

    name: str
    position: int
    of: int
    tars: tuple[str, ...] = ()


def planned_shards(config: SourceConfig) -> list[PlannedShard]:
    """Return every shard of a source, in the order in which scales use them.

    Args:
        config: Section `source`.

    Returns:
        Shards with positions from 0.

    Raises:
        ConfigError: The input does not exist, or is incomplete or ambiguous; the message states the required files.
    """
    match config:
        case WebDatasetSource():
            return _shards_of_tars(_tars(config), config)
        case MiniatureSource():
            images = config.images
        case FolderSource() | CocoSource():
            images = _count_images(config)
    of = math.ceil(images / config.images_per_shard)
    return [PlannedShard(f"{config.kind}-{position:04d}", position, of) for position in range(of)]


def image_folder(config: SourceConfig) -> Path | None:
    """Return the folder of images of a source with an index, or None for other kinds."""
    if isinstance(config, CocoSource):
        return Path(config.root) / config.images
    return Path(config.root) if isinstance(config, FolderSource) else None


def images_per_shard(config: SourceConfig) -> int:
    """Return the expected number of samples per shard."""
    if isinstance(config, WebDatasetSource):
        return config.samples_per_tar * config.tars_per_shard
    return config.images_per_shard


def shards_needed(
    scale: ScaleConfig, *, expected_keep_rate: float, shard_margin: float, images_per_shard: int, available: int
) -> int:
    """Return the number of shards of the prefix that a scale may need, from 1 to `available`.

    Args:
        scale: Number of samples of the scale.
        expected_keep_rate: Expected fraction of samples that pass filter and select, greater than 0.
        shard_margin: Extra shards as a fraction.
        images_per_shard: Expected samples per shard before the filter.
        available: Number of shards of the source.

    Returns:
        Number of shards.

    Raises:
        ConfigError: `expected_keep_rate` is 0.
    """
    if scale.images is None:
        return available
    if expected_keep_rate <= 0:
        raise ConfigError(
            "expected_keep_rate: must be greater than 0: with a keep rate of 0 no number of shards is enough"
        )
    shards = scale.images / expected_keep_rate * (1 + shard_margin) / images_per_shard
    return min(max(1, math.ceil(round(shards, 9))), available)  # 2.0000000000000004 shards are two


def prefix_length(config: Config, scale: str, *, available: int) -> int:
    """Return the number of shards of the prefix that a scale of the configuration may need.

    Args:
        config: Validated configuration.
        scale: Name of the scale.
        available: Number of shards of the source.

    Returns:
        Number of shards, from 1 to `available`.
    """
    plan, chosen = config.plan, config.scales[scale]
    return shards_needed(
        chosen,
        expected_keep_rate=plan.expected_keep_rate if chosen.expected_keep_rate is None else chosen.expected_keep_rate,
        shard_margin=plan.shard_margin if chosen.shard_margin is None else chosen.shard_margin,
        images_per_shard=images_per_shard(config.source),
        available=available,
    )


def longest_prefix(config: Config, shards: Sequence[PlannedShard]) -> Sequence[PlannedShard]:
    """Return the first shards of a source, as many as the largest planned scale may need."""
    lengths = [prefix_length(config, scale, available=len(shards)) for scale in config.plan.scales]
    return shards[: max(lengths, default=0)]


def require_outside(config: SourceConfig, output: Path) -> None:
    """Check that the output folder is not inside the input folder or around it, because inputs are never written to.

    Args:
        config: Section `source`; the miniature source has no input folder.
        output: Folder of the data set.

    Raises:
        ConfigError: One is inside the other.
    """
    if isinstance(config, MiniatureSource):
        return
    root, written = Path(config.root).resolve(), output.resolve()
    if written.is_relative_to(root) or root.is_relative_to(written):
        where = "inside" if written.is_relative_to(root) else "around"
        raise ConfigError(
            f"source.root: the output folder {output} lies {where} the input folder {config.root}, which is never written"
            " to. Choose another dataset.name, or move the input."
        )


def _count_images(config: FolderSource | CocoSource) -> int:
    if isinstance(config, FolderSource):
        folder = _existing(
            config.root, "your images there, with captions in NAME.txt beside NAME.jpg or in source.captions"
        )
        captions_table(config)
    else:
        folder = _coco_folder(config)
    listing = list_files(folder)
    listing = list_files(folder)
    try:
        require_images(listing)
    except DataError as error:
        raise ConfigError(f"source.root: {error}") from None
    return sum(map(is_image, chain(listing.files, listing.broken)))  # a broken link is a row too


def captions_table(config: FolderSource) -> Path | None:
    """Return the table of captions, relative to `root` or to the working directory, or None if captions are text files.

    Args:
        config: Key `captions` is None for text files.

    Returns:
        Existing path, or None.

    Raises:
        ConfigError: It does not exist, or is neither .csv, .tsv nor .parquet.
    """
    if config.captions is None:
        return None
    if PurePosixPath(config.captions).suffix.lower() not in TABLE_SUFFIXES:
        raise ConfigError(
            f"source.captions: {config.captions} is neither .csv, .tsv nor .parquet. Save it as one of these."
        )
    places = [Path(config.root) / config.captions, Path(config.captions)]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"source.captions: no such file: neither {places[0]} nor {places[1]}. Put it there.")


def _coco_folder(config: CocoSource) -> Path:
    jsons = " and ".join(name for name in (config.captions, config.instances) if name is not None)
    expected = f"COCO or LVIS there: images in {config.images}/, {jsons}"
    root = _existing(config.root, expected)
    if not (root / config.images).is_dir():
        raise ConfigError(f"source.images: {root / config.images}: no such folder. Put {expected}, or name another.")
    for key, name in (("captions", config.captions), ("instances", config.instances)):
        if name is not None and not (root / name).is_file():
            also = ", or set source.instances to null" if key == "instances" else ""
            raise ConfigError(f"source.{key}: {root / name}: no such file. Put it there, name another{also}.")
    return root / config.images


def _existing(root: str, expected: str) -> Path:
    if not Path(root).is_dir():
        raise ConfigError(
            f"source.root: {root}: no such folder. Put {expected} (a link is enough: ln -s /where/it/is {root})."
        )
    return Path(root)


def _tars(config: WebDatasetSource) -> list[Path]:
    root = _existing(config.root, f"the tars {config.pattern} there")
    pattern = PurePosixPath(config.pattern)
    if not pattern.parts or pattern.is_absolute() or ".." in pattern.parts:
        raise ConfigError(f"source.pattern: {config.pattern!r} must be a glob under source.root, such as '*.tar'")
    matching = _matching(root, pattern)
    tars = [path for path in matching if path.suffix == ".tar"]
    packed = [path for path in (matching or sorted(root.glob("*.tar.*"))) if path.suffix in COMPRESSED]
    if packed and (matching or not tars):
        raise ConfigError(
            f"source.root: {packed[0]} is compressed, as are {len(packed) - 1} more. Samples are read in place, which"
            " requires plain tars: unpack each to a .tar."
        )
    if not tars:
        raise ConfigError(
            f"source.root: no tar matches {root}/{config.pattern}. Put them there, or correct source.pattern."
        )
    if config.expected_tars not in (None, len(tars)):
        raise ConfigError(
            f"source.expected_tars: {len(tars)} tars match {root}/{config.pattern}, but {config.expected_tars} are expected."
            f" The first is {tars[0].name}, the last {tars[-1].name}. Provide the right files, or correct source.expected_tars."
        )
    return tars


def _matching(root: Path, pattern: PurePosixPath) -> list[Path]:
    """Return the files that a glob matches; linked folders are entered, each once."""
    if len(pattern.parts) > 1 or "**" in pattern.parts:
        names = list_files(root).files
        return sorted(root / name for name in names if _matches(PurePosixPath(name).parts, pattern.parts))
    try:
        found = sorted(root.glob(pattern.as_posix()))
    except ValueError as error:
        raise ConfigError(
            f"source.pattern: {pattern.as_posix()!r} is no glob: {error}. Give one, such as '*.tar'."
        ) from None
    broken = [path for path in found if path.is_symlink() and not path.exists()]
    if broken:
        log.warning("%s: %d tars are links that lead nowhere and are skipped, such as %s", root, len(broken), broken[0])
    return [path for path in found if path.is_file()]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _shards_of_tars(tars: list[Path], config: WebDatasetSource) -> list[PlannedShard]:
    """Return the shards, each named after its first tar; characters that a key must not hold, such as dots, become hyphens."""
    named: dict[str, list[Path]] = {}
    for start in range(0, len(tars), config.tars_per_shard):
        first = tars[start]
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", first.stem).strip("-")
        if not name:
            raise ConfigError(f"source.root: {first} cannot name a shard: its name has no letter or digit. Rename it.")
        if name in named:
            raise ConfigError(
                f"source.root: {named[name][0]} and {first} would both name the shard {name}. Rename one of them."
            )
        named[name] = tars[start : start + config.tars_per_shard]
    order = sorted(named, key=lambda name: hashlib.sha256(f"{config.seed}/{name}".encode()).digest())
    return [
        PlannedShard(name, position, len(order), tuple(path.as_posix() for path in named[name]))
        for position, name in enumerate(order)
    ]
