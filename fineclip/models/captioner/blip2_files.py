"""Check the JSON files of a BLIP-2 folder: all keys that captions depend on, in one place. torch and transformers are not imported.

transformers has a default for every key, such as the 32 queries of the published models. Where a default does not fit the
weights, loading them fails without the name of the key; where it fits by chance, captions are wrong.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fineclip.errors import CheckpointError
from fineclip.models.file_kinds import container_of
from fineclip.models.model_folders import absent_keys, read_object, require_keys

WHAT = "the configuration of a BLIP-2"
MODEL = "blip-2"
CONFIG = "config.json"
PROCESSORS = {
    "processor_config.json": "image_processor",
    "preprocessor_config.json": "",
}  # of transformers 5, of 4: their keys
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")
WEIGHTS = (".safetensors", ".bin")
SECTIONS = ("vision_config", "qformer_config", "text_config")
REQUIRED = ("model_type", "num_query_tokens", *SECTIONS, "text_config.model_type")
IMAGE_TOKEN = ("image_token_index", "image_token_id")  # two names of one key
HEADS = {
    "hidden_size": "num_attention_heads",
    "d_model": "num_heads",
}  # shapes of weights show the width, and not the heads
SIZES = {
    "vision_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size"),
    "qformer_config": ("hidden_size", "intermediate_size", "num_hidden_layers", "cross_attention_frequency"),
}
TEXT_SIZES = {
    "opt": (
        "hidden_size",
        "ffn_dim",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "word_embed_proj_dim",
    ),
    "t5": ("d_model", "d_ff", "d_kv", "num_layers", "vocab_size"),
}
PIXELS = ("image_mean", "image_std")


def check_files(folder: Path) -> None:
    """Check that a folder states all that captions depend on.

    Args:
        folder: Model and processor, as `save_pretrained` writes them.

    Raises:
        CheckpointError: A file or a key is absent; the message names it.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: holds no BLIP-2: there is no {CONFIG}")
    content, where = read_object(folder / CONFIG, what=WHAT), str(folder / CONFIG)
    if content.get("model_type") not in (None, MODEL):
        raise CheckpointError(
            f"{where}: is the configuration of a {content['model_type']!r} model of transformers; engine blip2 needs {MODEL!r}"
        )
    heads = [
        f"{part}.{HEADS[width]}"
        for part in SECTIONS
        for width in HEADS
        if not absent_keys(content, [f"{part}.{width}"])
    ]
    image_token = IMAGE_TOKEN if absent_keys(content, IMAGE_TOKEN) == list(IMAGE_TOKEN) else ()
    require_keys(content, [*REQUIRED, *image_token[:1], *heads], where=where, what=WHAT)
    _check_processor(folder)
    tokenizer = read_object(folder / TOKENIZER_CONFIG, what="the configuration of a tokenizer")
    require_keys(
        tokenizer, ["tokenizer_class"], where=str(folder / TOKENIZER_CONFIG), what="the configuration of a tokenizer"
    )
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder}: holds no tokenizer: expected one of {', '.join(TOKENIZERS)}")
    for path in sorted(folder.iterdir()):
        if path.suffix in WEIGHTS and path.is_file():
            container_of(path)


def _check_processor(folder: Path) -> None:
    """Check size, mean and standard deviation of the pixels, in the first file that states them."""
    found = {folder / name: key for name, key in PROCESSORS.items() if (folder / name).is_file()}
    if not found:
        raise CheckpointError(
            f"{folder}: holds none of {', '.join(PROCESSORS)}, which state how images are resized and normalized"
        )
    what = "the configuration of a processor of BLIP-2"
    contents = {path: read_object(path, what=what) for path in found}
    path = next((path for path, key in found.items() if not key or contents[path].get(key)), next(iter(found)))
    prefix, content = found[path] and f"{found[path]}.", contents[path]
    keys = [f"{prefix}{name}" for name in PIXELS]
    sides = [] if isinstance(_size(content, found[path]), int) else [f"{prefix}size.height", f"{prefix}size.width"]
    require_keys(content, [*keys, *sides], where=str(path), what=what)


def _size(content: Mapping[str, Any], key: str) -> Any:
    inner = content.get(key) if key else content
    return inner.get("size") if isinstance(inner, Mapping) else None


def unstated_sizes(folder: Path) -> str:
    """Return a sentence with the sizes that `config.json` does not state, so that transformers' defaults are used.

    Args:
        folder: That has a `config.json` with all sections.

    Returns:
        Sentence that follows an error about weights, or nothing if all are stated.
    """
    content = read_object(folder / CONFIG, what=WHAT)
    kind = content["text_config"]["model_type"]
    names = [f"{part}.{size}" for part, sizes in SIZES.items() for size in sizes]
    absent = absent_keys(content, [*names, *(f"text_config.{size}" for size in TEXT_SIZES.get(kind, ()))])
    return f". {CONFIG} does not state {', '.join(absent)}, and transformers' defaults may not fit" if absent else ""


def check_token(
    name: str, token: int | None, *, stated: bool, of_tokenizer: int | None, vocabulary_size: int, folder: Path
) -> None:
    """Check a special token.

    Args:
        name: Key of `config.json`.
        token: Its value; None if it has none.
        stated: The file has the key.
        of_tokenizer: Token of the tokenizer, which must be the same if the key is absent; None for no comparison.
        vocabulary_size: Number of tokens of the language model.
        folder: For messages.

    Raises:
        CheckpointError: It is absent, no token of the language model, or a default that is not the tokenizer's.
    """
    if not isinstance(token, int) or not 0 <= token < vocabulary_size:
        raise CheckpointError(
            f"{folder}: {name} is {token}, expected a token of the language model, 0 to {vocabulary_size - 1}"
        )
    if not stated and of_tokenizer not in (None, token):
        raise CheckpointError(
            f"{folder / CONFIG}: lacks {name}. transformers' default is {token}, but the tokenizer has {of_tokenizer}. Add the key."
        )
