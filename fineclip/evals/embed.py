"""Encode the images, boxes and texts of benchmarks: unit vectors, float32.

Legend: I images, T texts, R boxes of all images, D embedding.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fineclip.boxes import fractions
from fineclip.errors import DataError
from fineclip.models.batches import batches
from fineclip.models.checkpoints import ARCHITECTURE, VOCABULARY, WEIGHTS, find_encoder
from fineclip.models.features import FeatureEncoder
from fineclip.models.images import SQUASH, to_batch
from fineclip.shards import BenchmarkRow, ByteRangeReader, read_manifest
from fineclip.shards.images import UndecodableImage, decode
from fineclip.shards.manifest import verified_output

log = logging.getLogger(__name__)

PUBLISHED = (WEIGHTS, ARCHITECTURE, VOCABULARY, "config.yaml")


@dataclass(frozen=True)
class Embedder:
    """Read the images of an index, and encode them, their boxes and texts with one encoder.

    Attributes:
        encoder: Batch encoder.
        threads: Threads that decode images.
    """

    encoder: FeatureEncoder
    threads: int = 1

    @property
    def image_size(self) -> int:
        """Side of the square that the encoder was trained at, in pixels."""
        return self.encoder.image_size

    def images(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        """Return the global embeddings of whole images, squashed to a square.

        Args:
            rows: Images of the index.
            size: Side of the square in pixels, a multiple of the patch.

        Returns:
            (I, D) unit vectors, float32.

        Raises:
            ConfigError: The size is not a multiple of the patch.
            DataError: An image is broken, or is not the one that was indexed.
        """
        return _stacked(self.encoder.encode_pixels(pixels) for _, pixels in self._batches(rows, size))

    def regions(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        """Return the dense embeddings of all boxes. Each image is squashed to a square, and its boxes with it.

        Args:
            rows: Images of the index with their boxes.
            size: Side of the square in pixels, a multiple of the patch.

        Returns:
            (R, D) unit vectors, float32, in the order of images and boxes.

        Raises:
            ConfigError: The size is not a multiple of the patch.
            DataError: An image is broken, or is not the one that was indexed.
        """
        return _stacked(
            self.encoder.encode_pixel_regions(pixels, *_fractions(batch)) for batch, pixels in self._batches(rows, size)
        )

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts, (T, D). Equal texts have equal embeddings."""
        text_TD: np.ndarray = self.encoder.encode_text(texts).cpu().numpy()
        log.info("%d texts encoded, %d of them distinct", len(texts), len(set(texts)))
        return text_TD

    def _batches(self, rows: Sequence[BenchmarkRow], size: int) -> Iterator[tuple[Sequence[BenchmarkRow], Tensor]]:
        """Yield rows with their normalized pixels, (B, 3, S, S)."""
        self.encoder.require_whole_patches(size)
        with ByteRangeReader() as reader, ThreadPoolExecutor(self.threads) as pool:
            for batch in batches(tqdm(rows, desc="images", unit="image", disable=None), self.encoder.batch_size):
                contents = [_read(reader, row) for row in batch]
                squares = list(pool.map(_decoded, batch, contents, [size] * len(batch)))
                yield batch, to_batch(squares, size=size)
        log.info("%d images encoded at %d px", len(rows), size)


def _stacked(parts: Iterator[Tensor]) -> np.ndarray:
    return np.concatenate([part.cpu().numpy() for part in parts])


def published_embedder(run: Path, *, batch_size: int, device: str, threads: int) -> Embedder:
    """Load the encoder of a run, trained or pretrained.

    Args:
        run: `results/<dataset>/<run>/train.json`; the encoder is in the same folder.
        batch_size: Images or texts in one forward pass.
        device: auto, cpu, cuda or mps.
        threads: CPU threads, of torch in the whole process too.

    Returns:
        Embedder on the device, in evaluation mode.

    Raises:
        ShardError: A file of the encoder is absent, or its hash differs from the manifest.
        CheckpointError: The files do not fit each other.
    """
    torch.set_num_threads(threads)
    outputs = read_manifest(run).outputs
    for name in PUBLISHED:
        if name in outputs or run.with_name(name).is_file():
            verified_output(run, name)
    found = find_encoder(run.parent)
    encoder = FeatureEncoder(
        found.load(), found.tokenizer(), image_size=found.config.image_size, batch_size=batch_size, device=device
    )
    return Embedder(encoder, threads)


def _fractions(rows: Sequence[BenchmarkRow]) -> tuple[Tensor, Tensor]:
    """Return the boxes as fractions of their image, (R, 4), and the index of the image of each, (R,)."""
    boxes = [fractions(one.box, row.width, row.height) for row in rows for one in row.boxes]
    owners = [index for index, row in enumerate(rows) for _ in row.boxes]
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(owners, dtype=torch.int64)


def _read(reader: ByteRangeReader, row: BenchmarkRow) -> bytes:
    content = reader.read(row.file, row.offset, row.size)
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise DataError(
            f"{row.file}: {row.key} is not the image that was indexed. Rebuild the index: fineclip index --force."
        )
    return content


def _decoded(row: BenchmarkRow, content: bytes, size: int) -> Tensor:
    try:
        return SQUASH(decode(content), size)
    except UndecodableImage as error:
        raise DataError(f"{row.file}: {row.key} {error}. Download it again and rebuild the index.") from None
