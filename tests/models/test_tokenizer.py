"""Token ids of CLIP's vocabulary and of others, truncation, pickling."""

import gzip
import pickle
from pathlib import Path

import pytest
import torch

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import ConfigError
from fineclip.models.tokenizer import Tokenizer, load_tokenizer
from tests.helpers.encoders import encoder_config

START, END = 49406, 49407


def own_vocabulary(folder: Path) -> Path:
    """256 bytes, alone and at the end of a word, two merges, start and end."""
    path = folder / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b"#version: ours\nd o\ndo g</w>"))
    return path


def test_known_ids_and_padding() -> None:
    ids = Tokenizer(context_length=8)(["a photo of a dog", ""])
    assert ids.tolist() == [[START, 320, 1125, 539, 320, 1929, END, 0], [START, END, 0, 0, 0, 0, 0, 0]]
    assert ids.dtype == torch.int64


def test_truncated_texts_keep_the_end_token() -> None:
    [ids] = Tokenizer(context_length=5)(["dog " * 50]).tolist()
    assert ids == [START, 1929, 1929, 1929, END]


def test_no_texts() -> None:
    assert Tokenizer(context_length=8)([]).shape == (0, 8)


def test_goes_to_other_processes(tmp_path: Path) -> None:
    tokenizer = Tokenizer(context_length=6, bpe=own_vocabulary(tmp_path))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copy(["a dog, é"]), tokenizer(["a dog, é"]))


def test_own_vocabulary_fits_the_model(tmp_path: Path) -> None:
    bpe = own_vocabulary(tmp_path)
    config = encoder_config(tmp_path, "openai", tokenizer=WeightsConfig(path=str(bpe)))
    with pytest.raises(ConfigError, match=r"516 tokens, but the text tower .* has 512"):
        load_tokenizer(config)
    path = Path(config.model)
    path.write_text(path.read_text().replace('"vocab_size": 512', '"vocab_size": 516'))
    assert load_tokenizer(config)(["dog"])[0, :4].tolist() == [514, 513, 515, 0]


def test_clips_own_vocabulary_is_refused_for_another_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="49408 tokens"):
        load_tokenizer(encoder_config(tmp_path, "openai"))


def test_invalid_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="not a vocabulary in CLIP's format"):
        Tokenizer(context_length=8, bpe=path)
    with pytest.raises(ConfigError, match="No such file"):
        Tokenizer(context_length=8, bpe=tmp_path / "absent.gz")


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "xlm-roberta-base-ViT-B-32"])
def test_tokenizers_that_need_the_network_are_refused(name: str) -> None:
    config = EncoderConfig(model=name, weights=WeightsConfig(path="nowhere"))
    with pytest.raises(ConfigError, match="Hugging Face's"):
        load_tokenizer(config)
