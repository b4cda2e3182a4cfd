"""An encoder at work: benchmark images, their boxes and texts in, unit vectors out, in float32.

Legend: I images, T texts, R boxes of all images, D embedding, L tokens.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from fineclip.errors import ConfigError, DataError, ShardError
from fineclip.models.checkpoint import (
    ARCHITECTURE,
    VOCABULARY,
    WEIGHTS,
    load_published,
    published_config,
    published_tokenizer,
)
from fineclip.models.encoder import RegionEncoder
from fineclip.models.images import UndecodableImage, decode, squash, to_batch
from fineclip.models.tokenizer import cut_after_ends
from fineclip.shards import BenchmarkRow, ByteRangeReader, read_manifest, sha256_of

log = logging.getLogger(__name__)

PUBLISHED = (WEIGHTS, ARCHITECTURE, VOCABULARY, "config.yaml")

Tokenize = Callable[[Sequence[str]], Tensor]


class Embedder:
    """Encodes in batches of a fixed size; the results are the same for every size, but for rounding.

    Attributes:
        image_size: side of the square that the encoder was trained at.
    """

    def __init__(
        self,
        encoder: RegionEncoder,
        tokenize: Tokenize,
        *,
        image_size: int,
        batch_size: int = 64,
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        """`threads` decode images; `device` is auto, cpu, cuda or mps, auto being a GPU where there is one."""
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._device = torch.device(kind)
        self._encoder = encoder.to(self._device, torch.float32).eval()
        self._tokenize, self._batch_size, self._threads = tokenize, batch_size, threads
        self.image_size = image_size

    def images(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        """(I, D) global embeddings of whole images, squashed to a square of `size`."""
        with _exactly():
            parts = [self._to_host(self._encoder.encode_image(batch)) for _, batch in self._batches(rows, size)]
        return np.concatenate(parts)

    def regions(self, rows: Sequence[BenchmarkRow], *, size: int) -> np.ndarray:
        """(R, D) dense embeddings of every box, image by image; the image is squashed, and its boxes with it."""
        parts = []
        with _exactly():
            for part, batch in self._batches(rows, size):
                boxes_R4, owner_R = _fractions(part)
                encoded_RD = self._encoder.encode_regions(batch, boxes_R4.to(self._device), owner_R.to(self._device))
                parts.append(self._to_host(encoded_RD))
        return np.concatenate(parts)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(T, D) embeddings of texts. Equal texts are encoded once, so that they tie."""
        position = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        tokens_TL = cut_after_ends(self._tokenize(list(position)))
        batches = torch.split(tokens_TL, self._batch_size)
        with _exactly():
            encoded = [
                self._to_host(self._encoder.encode_text(batch.to(self._device)))
                for batch in tqdm(batches, desc="texts", unit="batch", disable=None)
            ]
        log.info("%d texts encoded, %d of them different", len(texts), len(position))
        return np.concatenate(encoded)[[position[text] for text in texts]]

    def _batches(self, rows: Sequence[BenchmarkRow], size: int) -> Iterator[tuple[Sequence[BenchmarkRow], Tensor]]:
        """Rows with their pixels on the device, (B, 3, S, S)."""
        self._require_whole_patches(size)
        with ByteRangeReader() as reader, ThreadPoolExecutor(self._threads) as pool:
            todo = iter(tqdm(rows, desc="images", unit="image", disable=None))
            while part := list(islice(todo, self._batch_size)):
                contents = [_read(reader, row) for row in part]
                squares = list(pool.map(_decoded, part, contents, [size] * len(part)))
                yield part, to_batch(squares, size=size).to(self._device)
        log.info("%d images encoded at %d px", len(rows), size)

    def _require_whole_patches(self, size: int) -> None:
        height, width = self._encoder.patch
        if size % height or size % width:
            raise ConfigError(
                f"image_size {size} px of the benchmark is not whole patches of the encoder's {height} x {width} px."
                f" Set a multiple, or null for the encoder's own {self.image_size} px."
            )

    def _to_host(self, rows: Tensor) -> np.ndarray:
        unit: np.ndarray = normalize(rows.float(), dim=-1).cpu().numpy()
        return unit


def published_embedder(run: Path, *, batch_size: int, device: str, threads: int) -> Embedder:
    """The encoder that lies beside `train.json`, of a training or as it came.

    Args:
        run: the manifest.
        batch_size: images or texts that are encoded at once.
        device: auto, cpu, cuda or mps.
        threads: on the CPU, of torch in this whole process too.

    Raises:
        ShardError: a file of the encoder is gone, or not the one that the manifest names.
        CheckpointError: the files do not fit each other.
    """
    torch.set_num_threads(threads)
    outputs = read_manifest(run).outputs
    for name in PUBLISHED:
        path = run.parent / name
        if name in outputs and not path.is_file():
            raise ShardError(f"{path}: is gone. Delete {run} and run again.")
        if path.is_file() and sha256_of(path) != outputs.get(name):
            raise ShardError(f"{path}: is not the one that {run.name} names. Delete {run} and run again.")
    return Embedder(
        load_published(run.parent),
        published_tokenizer(run.parent),
        image_size=published_config(run.parent).image_size,
        batch_size=batch_size,
        device=device,
        threads=threads,
    )


@contextmanager
def _exactly() -> Iterator[None]:
    """No gradient, no autocast, and on a GPU no TF32 in convolutions, which PyTorch allows by default."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def _fractions(rows: Sequence[BenchmarkRow]) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) as fractions of their image, and which of the images each is of (R,)."""
    boxes = [
        (box["x1"] / row.width, box["y1"] / row.height, box["x2"] / row.width, box["y2"] / row.height)
        for row in rows
        for box in row.boxes
    ]
    owners = [index for index, row in enumerate(rows) for _ in row.boxes]
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(owners, dtype=torch.int64)


def _read(reader: ByteRangeReader, row: BenchmarkRow) -> bytes:
    content = reader.read(row.file, row.offset, row.size)
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise DataError(
            f"{row.file}: {row.key} is not the image that was indexed. Make the index again: fineclip index --force."
        )
    return content


def _decoded(row: BenchmarkRow, content: bytes, size: int) -> Tensor:
    try:
        return squash(decode(content), size)
    except UndecodableImage as error:
        raise DataError(f"{row.file}: {row.key} {error}. Fetch it again, and make the index again.") from None
