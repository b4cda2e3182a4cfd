"""Texts to token ids, by CLIP's byte-pair encoding.

Legend: N texts, L context length.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from fineclip.config import EncoderConfig
from fineclip.errors import ConfigError
from fineclip.models.architecture import architecture
from fineclip.models.shipped import shipped

CONTEXT_LENGTH = 77  # where a model config does not say
VOCABULARY = 49408


class Tokenizer:
    """A callable that can be sent to other processes; `context_length` is L, `vocabulary_size` the number of tokens."""

    def __init__(self, *, context_length: int, bpe: Path | None = None, options: dict[str, Any] | None = None) -> None:
        """Of the vocabulary in `bpe`, a gzip in CLIP's format, or CLIP's own.

        Raises:
            ConfigError: the file is absent or no such gzip.
        """
        where = {} if bpe is None else {"bpe_path": str(bpe)}
        try:
            self._upstream = SimpleTokenizer(context_length=context_length, **where, **(options or {}))
        except (OSError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ConfigError(f"{bpe}: is no vocabulary in CLIP's format, a gzip of merges: {error}") from None
        self.context_length = context_length
        self.vocabulary_size: int = self._upstream.vocab_size

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, L) int64: start, tokens, end, then zeros. What is too long is cut, and ends with the end token all the same."""
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens_NL: Tensor = self._upstream(list(texts))
        return tokens_NL


def cut_after_ends(tokens_NL: Tensor) -> Tensor:
    """(N, l): the columns up to the last end of a text, at least one; what follows changes no embedding and no gradient.

    The end is the largest token of a row, the first if there are several, as where embeddings are read. To be called where
    the tokens are on the host: the number of columns is needed there.
    """
    return tokens_NL[:, : 1 + int(tokens_NL.argmax(dim=1).max()) if len(tokens_NL) else 1]


def load_tokenizer(config: EncoderConfig, bpe: Path | None = None) -> Tokenizer:
    """The tokenizer of an encoder.

    Args:
        config: whose model says how long a text may be, and how many tokens there are.
        bpe: where the vocabulary that `config.tokenizer` names lies; not needed if it is shipped, a path that exists, or
            CLIP's own.

    Raises:
        ConfigError: the vocabulary is absent, or of another size than the model's.
    """
    text = architecture(config.model)["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    if "reduction_mask" in options:
        raise ConfigError(f"{config.model}: its tokenizer drops words at random or by grammar; cutting alone is read")
    tokenizer = Tokenizer(
        context_length=int(text.get("context_length", CONTEXT_LENGTH)), bpe=bpe or _vocabulary(config), options=options
    )
    expected = int(text.get("vocab_size", VOCABULARY))
    if tokenizer.vocabulary_size != expected:
        raise ConfigError(
            f"{bpe or _vocabulary(config) or 'the vocabulary of CLIP'}: has {tokenizer.vocabulary_size} tokens, but the text tower of "
            f"{config.model} has {expected}. Give the encoder the vocabulary it was trained with, by its key `tokenizer`."
        )
    return tokenizer


def _vocabulary(config: EncoderConfig) -> Path | None:
    place = config.tokenizer
    if place is None:
        return None
    if place.path is not None and Path(place.path).exists():
        return Path(place.path)
    if place.shipped is not None:
        return shipped(place.shipped)
    raise ConfigError(f"the vocabulary of {config.model} is not at {place.path}. Fetch it first: fineclip weights")
