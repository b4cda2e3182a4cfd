"""Tokenizer: CLIP's byte-pair encoding.

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

CONTEXT_LENGTH = 77  # default of a model config
VOCABULARY = 49408


class Tokenizer:
    """Callable that turns texts into token ids. It can be pickled.

    Args:
        context_length: Tokens of a text, L.
        bpe: Vocabulary in CLIP's format, a gzip of merges. None takes CLIP's own.
        options: Keyword arguments of open_clip's `SimpleTokenizer`.

    Attributes:
        context_length: Tokens of a text, L.
        vocabulary_size: Number of tokens.

    Raises:
        ConfigError: The file is absent or is not in CLIP's format.

    Examples:
        >>> Tokenizer(context_length=5)(["a dog"]).tolist()
        [[49406, 320, 1929, 49407, 0]]
    """

    def __init__(self, *, context_length: int, bpe: Path | None = None, options: dict[str, Any] | None = None) -> None:
        where = {} if bpe is None else {"bpe_path": str(bpe)}
        try:
            self._upstream = SimpleTokenizer(context_length=context_length, **where, **(options or {}))
        except (OSError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ConfigError(f"{bpe}: is not a vocabulary in CLIP's format (a gzip of merges): {error}") from None
        self.context_length = context_length
        self.vocabulary_size: int = self._upstream.vocab_size

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return (N, L) int64: start token, tokens, end token, zeros. A long text is truncated and keeps its end token."""
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens_NL: Tensor = self._upstream(list(texts))
        return tokens_NL


def trim_padding(tokens_NL: Tensor) -> Tensor:
    """Remove the columns after the last end token; they change neither embeddings nor gradients.

    The end token of a row is its largest token, the first if there are several, as in `RegionEncoder.encode_text`.

    Args:
        tokens_NL: On the CPU, as the number of columns is needed there.

    Returns:
        (N, l) with 1 <= l <= L.
    """
    return tokens_NL[:, : 1 + int(tokens_NL.argmax(dim=1).max()) if len(tokens_NL) else 1]


def load_tokenizer(config: EncoderConfig, bpe: Path | None = None) -> Tokenizer:
    """Load the tokenizer of an encoder.

    Args:
        config: Its model config sets the context length and the size of the vocabulary.
        bpe: File of the vocabulary. None takes the one of `config.tokenizer`, which must be shipped or an existing path, or
            CLIP's own.

    Returns:
        Callable that turns texts into token ids.

    Raises:
        ConfigError: The vocabulary is absent, or its size is not that of the model.
    """
    text = architecture(config.model)["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    if "reduction_mask" in options:
        raise ConfigError(
            f"{config.model}: its tokenizer drops words at random or by grammar; only truncation is supported"
        )
    bpe = bpe or _vocabulary(config)
    tokenizer = Tokenizer(context_length=int(text.get("context_length", CONTEXT_LENGTH)), bpe=bpe, options=options)
    expected = int(text.get("vocab_size", VOCABULARY))
    if tokenizer.vocabulary_size != expected:
        raise ConfigError(
            f"{bpe or 'the vocabulary of CLIP'}: has {tokenizer.vocabulary_size} tokens, but the text tower of "
            f"{config.model} has {expected}. Set the key `tokenizer` of the encoder to the vocabulary it was trained with."
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
    raise ConfigError(
        f"the vocabulary of {config.model} is missing at {place.path}. Download it first: fineclip weights"
    )
