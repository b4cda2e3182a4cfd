"""Embeddings of the texts of one shard in a file that any number of processes map into memory.

    hashes      (T, 16) uint8, ascending, each once: the first half of a text's sha256
    rows        (T,) int32: where its embedding stands
    features    (T, D) float32: in the order in which texts were met, so that those of one sample lie together

It is a safetensors file; its metadata names what made the embeddings, as `text_tower`.

Legend: T texts, D embedding width, N texts that are asked for.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fineclip.errors import ShardError
from fineclip.shards.atomic import atomic

HASH_BYTES = 16
TYPES = {"features": ("F32", np.float32), "rows": ("I32", np.int32), "hashes": ("U8", np.uint8)}  # as they lie there
ALIGNMENT = 8  # bytes
LONGEST_HEADER = 1 << 20  # bytes; a larger one is no file of ours


def write_texts(path: Path, texts: Sequence[str], features_TD: npt.NDArray[np.float32], *, text_tower: str) -> None:
    """Write the embeddings of different texts, whole or not at all; the same bytes for the same embeddings."""
    if len(set(texts)) != len(texts) or features_TD.shape[:1] != (len(texts),):
        raise AssertionError(f"{path}: {features_TD.shape} are no embeddings of {len(texts)} different texts")
    hashes = _hashes(texts)
    order = np.argsort(hashes)
    tensors: dict[str, npt.NDArray[Any]] = {
        "features": features_TD,
        "rows": order,
        "hashes": hashes[order].view(np.uint8).reshape(-1, HASH_BYTES),
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(_stated({name: tensor.shape for name, tensor in tensors.items()}, text_tower))
        for name, (_, dtype) in TYPES.items():
            np.ascontiguousarray(tensors[name], dtype=dtype).tofile(file)


class TextsFile:
    """Such a file, open: nothing is read but what is asked for, and processes share it.

    Attributes:
        text_tower: what made the embeddings.
        width: D.

    Raises:
        ShardError: it is gone, cut short, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header, begin = _header(path)
            self.text_tower = str(header.pop("__metadata__")["text_tower"])
            self._features_TD, self._rows_T, hashes = _mapped(path, header, begin)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}), though its manifest names it.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: is no file of texts, or a damaged one ({error}).") from None
        self._hash_T = hashes.reshape(-1).view(f"S{HASH_BYTES}")
        self.width = int(self._features_TD.shape[1])

    def __len__(self) -> int:
        return len(self._hash_T)

    def __contains__(self, text: str) -> bool:
        return bool(self._places([text])[0] >= 0)

    def features(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, D), a copy.

        Raises:
            KeyError: of a text that is not there.
        """
        place_N = self._places(texts)
        for text, place in zip(texts, place_N, strict=True):
            if place < 0:
                raise KeyError(text)
        return np.array(self._features_TD[self._rows_T[place_N]])

    def _places(self, texts: Sequence[str]) -> npt.NDArray[np.intp]:
        """(N,): of each text among the hashes, -1 where it is not."""
        if not len(self):
            return np.full(len(texts), -1)
        wanted_N = _hashes(texts)
        place_N = np.minimum(np.searchsorted(self._hash_T, wanted_N), len(self) - 1)
        return np.where(self._hash_T[place_N] == wanted_N, place_N, -1)


def _hashes(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    digests = [hashlib.sha256(text.encode()).digest()[:HASH_BYTES] for text in texts]
    return np.array(digests, dtype=f"S{HASH_BYTES}")


def _stated(shapes: Mapping[str, tuple[int, ...]], text_tower: str) -> bytes:
    """The head of a safetensors file: what follows, and where."""
    header: dict[str, Any] = {"__metadata__": {"text_tower": text_tower}}
    start = 0
    for name, (kind, dtype) in TYPES.items():
        end = start + prod(shapes[name]) * np.dtype(dtype).itemsize
        header[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(ALIGNMENT, "little") + text


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of itself, and where its tensors begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(ALIGNMENT), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
    return header, ALIGNMENT + length


def _mapped(path: Path, header: dict[str, Any], begin: int) -> Iterator[npt.NDArray[Any]]:
    """The tensors, in the order of `TYPES`. A map of no bytes is none, and an array takes its place."""
    for name, (kind, dtype) in TYPES.items():
        stated, shape, (start, end) = (header[name][what] for what in ("dtype", "shape", "data_offsets"))
        if stated != kind or end - start != prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"{name} are {shape} of {stated}")
        if end == start:
            yield np.empty(shape, dtype)
        else:
            yield np.memmap(path, dtype, mode="r", offset=begin + start, shape=tuple(shape))
