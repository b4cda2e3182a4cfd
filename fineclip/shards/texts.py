"""Embeddings of the texts of one shard, in a safetensors file that any number of processes map into memory.

    hashes      (T, 16) uint8, ascending and unique: the first half of the SHA-256 of each text
    rows        (T,) int32: row of `features` of each hash
    features    (T, D) float32: in the order of the first use, so that the texts of one sample are neighbors

The metadata `text_tower` identifies the text encoder.

Legend: T texts, D embedding width, N requested texts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fineclip.errors import ShardError
from fineclip.shards.atomic import atomic

HASH_BYTES = 16
TYPES = {
    "features": ("F32", np.float32),
    "rows": ("I32", np.int32),
    "hashes": ("U8", np.uint8),
}  # dtype in the file and in NumPy, in the order of the file
ALIGNMENT = 8  # bytes
MAX_HEADER_BYTES = 1 << 20  # a larger header is not one that `write_texts` wrote


def write_texts(path: Path, texts: Sequence[str], features_TD: npt.NDArray[np.float32], *, text_tower: str) -> None:
    """Write embeddings atomically. Equal embeddings give equal bytes.

    Args:
        path: New file.
        texts: Distinct texts.
        features_TD: Their embeddings, in the same order.
        text_tower: Identifier of the text encoder.

    Raises:
        AssertionError: Texts are not unique, or their number differs from that of the embeddings.
    """
    if len(set(texts)) != len(texts) or features_TD.shape[:1] != (len(texts),):
        raise AssertionError(f"{path}: {features_TD.shape} are not embeddings of {len(texts)} distinct texts")
    hashes = _hashes(texts)
    order = np.argsort(hashes)
    tensors: dict[str, npt.NDArray[Any]] = {
        "features": features_TD,
        "rows": order,
        "hashes": hashes[order].view(np.uint8).reshape(-1, HASH_BYTES),
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(_header_bytes({name: tensor.shape for name, tensor in tensors.items()}, text_tower))
        for name, (_, dtype) in TYPES.items():
            # `tofile` hides the error of the system
            file.write(np.ascontiguousarray(tensors[name], dtype=dtype).reshape(-1).view(np.uint8).data)


class TextsFile:
    """Open file of embeddings. Only requested rows are read; processes share the memory.

    Args:
        path: File that `write_texts` wrote.

    Attributes:
        text_tower: Identifier of the text encoder.
        width: Embedding width D.

    Raises:
        ShardError: The file is missing, truncated, or of another kind.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     write_texts(path, ["a dog", "a cat"], np.eye(2, dtype=np.float32), text_tower="abc")
        ...     TextsFile(path).features(["a cat"]).tolist()
        [[0.0, 1.0]]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header, tensors = _mapped(path)
            self.text_tower = str(header["__metadata__"]["text_tower"])
            self._features_TD, self._rows_T, hashes = (_tensor(name, header[name], tensors) for name in TYPES)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}), but its manifest lists it.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: is not a file of texts, or is damaged ({error}).") from None
        self._hash_T = hashes.reshape(-1).view(f"S{HASH_BYTES}")
        self.width = int(self._features_TD.shape[1])

    def __len__(self) -> int:
        return len(self._hash_T)

    def __contains__(self, text: str) -> bool:
        return bool(self._places([text])[0] >= 0)

    def features(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embeddings of texts, (N, D), as a copy.

        Args:
            texts: N texts, repetitions allowed.

        Returns:
            float32, in the order of `texts`.

        Raises:
            KeyError: A text is not in the file.
        """
        place_N = self._places(texts)
        for text, place in zip(texts, place_N, strict=True):
            if place < 0:
                raise KeyError(text)
        return np.array(self._features_TD[self._rows_T[place_N]])

    def _places(self, texts: Sequence[str]) -> npt.NDArray[np.intp]:
        """Return the position of each text among the hashes, (N,); -1 if it is not in the file."""
        if not len(self):
            return np.full(len(texts), -1)
        wanted_N = _hashes(texts)
        place_N = np.minimum(np.searchsorted(self._hash_T, wanted_N), len(self) - 1)
        return np.where(self._hash_T[place_N] == wanted_N, place_N, -1)


def _hashes(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    digests = [hashlib.sha256(text.encode()).digest()[:HASH_BYTES] for text in texts]
    return np.array(digests, dtype=f"S{HASH_BYTES}")


def _header_bytes(shapes: Mapping[str, tuple[int, ...]], text_tower: str) -> bytes:
    """Return the header of a safetensors file: dtype, shape and byte range of each tensor."""
    header: dict[str, Any] = {"__metadata__": {"text_tower": text_tower}}
    start = 0
    for name, (kind, dtype) in TYPES.items():
        end = start + prod(shapes[name]) * np.dtype(dtype).itemsize
        header[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(ALIGNMENT, "little") + text


def _mapped(path: Path) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """Return the header of a safetensors file and, mapped into memory, the bytes of its tensors."""
    content = np.memmap(path, np.uint8, mode="r")
    begin = ALIGNMENT + int.from_bytes(content[:ALIGNMENT].tobytes(), "little")
    if begin > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {begin:,} bytes")
    return json.loads(content[ALIGNMENT:begin].tobytes()), content[begin:]


def _tensor(name: str, header: Mapping[str, Any], tensors: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return one tensor of a file without a copy. `header` is its part of the header of the file."""
    kind, dtype = TYPES[name]
    stated, shape, (start, end) = header["dtype"], header["shape"], header["data_offsets"]
    content = tensors[start:end]
    if stated != kind or len(content) != prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"{name} are {shape} of {stated} in {len(content):,} bytes")
    return content.view(dtype).reshape(shape)
