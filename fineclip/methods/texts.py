"""Embeddings of texts computed beforehand, as workers of the loader read them.

Legend: N texts, D embedding width.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fineclip.errors import ShardError
from fineclip.shards import TextsFile

MOST_OPEN = 64  # open files; a loader reads from a few shards at a time


class CachedTexts:
    """Look up embeddings by key of the sample and text. Picklable: each process opens the files when it needs them.

    Args:
        files: File of each shard.
        width: D.
    """

    def __init__(self, files: Mapping[str, Path], width: int) -> None:
        self.files, self.width = files, width
        self._open = lru_cache(maxsize=MOST_OPEN)(TextsFile)

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedTexts, (self.files, self.width)  # memory maps cannot be pickled

    def __call__(self, key: str, texts: Sequence[str]) -> Tensor:
        """Return embeddings of texts of one sample, (N, D) float32, not normalized.

        Args:
            key: Key of the sample.
            texts: N texts; N may be 0.

        Returns:
            (N, D) tensor.

        Raises:
            ShardError: The file of the shard is missing or damaged, or lacks a text.
        """
        if not texts:
            return torch.empty(0, self.width)
        shard = key.rpartition("-")[0]
        if shard not in self.files:
            raise ShardError(f"shard {shard}: the embeddings of its texts are missing. Add their manifest to --texts.")
        file = self._open(self.files[shard])
        try:
            return torch.from_numpy(file.features(texts))
        except KeyError as error:
            raise ShardError(
                f"{file.path}: has no embedding of {error.args[0]!r}, a text of sample {key}. It was computed for other texts:"
                " run `fineclip texts --force`."
            ) from None
