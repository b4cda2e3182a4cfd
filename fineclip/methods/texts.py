"""Embeddings of texts computed beforehand, as workers of the loader read them.

Legend: N texts, D embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fineclip.errors import ShardError
from fineclip.shards import TextsFile

MOST_OPEN = 64  # open files; a loader reads from a few shards at a time


@dataclass(eq=False)
class CachedTexts:
    """Look up embeddings by key of the sample and text. Picklable: each process opens the files when it needs them.

    Attributes:
        files: File of each shard.
        width: D.
    """

    files: Mapping[str, Path]
    width: int
    _open: dict[str, TextsFile] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # memory maps cannot be pickled

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
        file = self._file(key.rpartition("-")[0])
        try:
            return torch.from_numpy(file.features(texts))
        except KeyError as error:
            raise ShardError(
                f"{file.path}: has no embedding of {error.args[0]!r}, a text of sample {key}. It was computed for other texts:"
                " run `fineclip texts --force`."
            ) from None

    def _file(self, shard: str) -> TextsFile:
        if shard not in self._open:
            if shard not in self.files:
                raise ShardError(
                    f"shard {shard}: the embeddings of its texts are missing. Add their manifest to --texts."
                )
            if len(self._open) >= MOST_OPEN:
                del self._open[next(iter(self._open))]
            self._open[shard] = TextsFile(self.files[shard])
        return self._open[shard]
