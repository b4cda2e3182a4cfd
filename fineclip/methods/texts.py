"""Texts that were embedded beforehand, as the loader's workers read them.

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

MOST_OPEN = 64  # files; a loader reads from a few shards at a time


@dataclass(eq=False)
class CachedTexts:
    """Embeddings by a sample's key and its texts. Picklable: each process opens the files itself, when it needs them.

    Attributes:
        files: of each shard.
        width: D.
    """

    files: Mapping[str, Path]
    width: int
    _open: dict[str, TextsFile] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # maps of files cannot be sent

    def __call__(self, key: str, texts: Sequence[str]) -> Tensor:
        """(N, D) float32, not normalised, of texts of one sample; of none for any key.

        Raises:
            ShardError: the file of its shard is gone or damaged, or lacks one of the texts.
        """
        if not texts:
            return torch.empty(0, self.width)
        file = self._file(key.rpartition("-")[0])
        try:
            return torch.from_numpy(file.features(texts))
        except KeyError as error:
            raise ShardError(
                f"{file.path}: has no embedding of {error.args[0]!r}, a text of sample {key}. It was made of other texts: make it"
                " again, with the option --force of `fineclip texts`."
            ) from None

    def _file(self, shard: str) -> TextsFile:
        if shard not in self._open:
            if shard not in self.files:
                raise ShardError(
                    f"shard {shard}: no embeddings of its texts are given. Hand over their manifest: --texts"
                )
            if len(self._open) >= MOST_OPEN:
                del self._open[next(iter(self._open))]
            self._open[shard] = TextsFile(self.files[shard])
        return self._open[shard]
