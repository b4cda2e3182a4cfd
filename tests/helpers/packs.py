"""Small selections and packed shards, made by hand."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fineclip.shards import Job, PackRow, SelectRow, TableWriter, TarAppender, add_sample
from fineclip.types import Box, Region, Sample

WIDTH, HEIGHT = 24, 16


def picture(seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def sample(key: str, *, regions: int = 2, image: bytes | None = None) -> Sample:
    """An image with three captions and some regions."""
    number = int.from_bytes(key.encode(), "little") % 1000
    found = (
        Region(Box(index, index, index + 8 + number % 7, index + 9), 0.9, "thing", f"thing {number} {index}")
        for index in range(regions)
    )
    captions = tuple(f"{word} {number}" for word in ("one", "two", "three"))
    return Sample(key, image or picture(number), WIDTH, HEIGHT, captions, regions=tuple(found))


def write_pack(
    folder: Path,
    shard: str,
    samples: Sequence[Sample],
    *,
    dropped: Mapping[str, str] | None = None,
    inputs: Sequence[Path] = (),
) -> Path:
    """A packed shard; `dropped` gives keys with reasons, `inputs` are the manifests that it was made from."""
    manifest = folder / f"{shard}.json"
    folder.mkdir(parents=True, exist_ok=True)
    tar = TarAppender(folder / f"{shard}.tar")
    job = Job(manifest, stage="pack", version=1, config={}, inputs=inputs)
    with TableWriter(job, PackRow, also=(folder / f"{shard}.tar",)) as table:
        for one in samples:
            table.write(add_sample(tar, one, image_format="PNG"))
        for key, reason in (dropped or {}).items():
            table.write(PackRow(key=key, kept=False, reason=reason))
        tar.close()
    return manifest


def write_select(path: Path, keys: Mapping[str, Sequence[str]]) -> Path:
    """A selection of keys, by shard."""
    with TableWriter(Job(path, stage="select", version=1, config={}, inputs={}), SelectRow) as table:
        for shard, of_shard in keys.items():
            for key in of_shard:
                table.write(SelectRow(key=key, kept=True, shard=shard))
    return path


def keys_of(shard: str, count: int) -> list[str]:
    """As the source stage names samples."""
    return [f"{shard}-{index:06d}" for index in range(count)]


def write_world(
    folder: Path, sizes: Mapping[str, int], *, regions: Sequence[int] = (2, 0, 1)
) -> tuple[Path, list[Path]]:
    """A selection of everything in a few packed shards; images have so many regions in turn."""
    keys = {shard: keys_of(shard, size) for shard, size in sizes.items()}
    packed = [
        write_pack(
            folder / "pack",
            shard,
            [sample(key, regions=regions[index % len(regions)]) for index, key in enumerate(of_shard)],
        )
        for shard, of_shard in keys.items()
    ]
    return write_select(folder / "select.json", keys), packed
