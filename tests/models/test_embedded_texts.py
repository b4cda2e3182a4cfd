"""Batches of texts by length equal single texts; the hash of a text tower."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fineclip.models.embed_texts import embed_texts, text_tower_hash
from fineclip.models.encoder import RegionEncoder
from tests.helpers.encoders import tiny_encoder

START, END, LENGTH = 510, 511, 77


def tokens(*lengths: int) -> Tensor:
    """A start, so many tokens, an end, zeros."""
    rows = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for index, length in enumerate(lengths):
        words = torch.randint(1, START, (length,), generator=torch.Generator().manual_seed(index))
        rows[index, : length + 2] = torch.tensor([START, *words.tolist(), END])
    return rows


LENGTHS = (3, 75, 0, 6, 7, 3, 20, 70, 14, 6)


@pytest.fixture(params=["eva", "openai"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> RegionEncoder:
    return tiny_encoder(tmp_path, request.param)


def test_embeddings_equal_the_tower_at_all_lengths(encoder: RegionEncoder) -> None:
    found = embed_texts(encoder, tokens(*LENGTHS), batch_size=4)
    with torch.no_grad():
        expected = torch.cat([encoder.encode_text(row[None]) for row in tokens(*LENGTHS)])
    assert found.dtype == torch.float32 and found.shape == (len(LENGTHS), encoder.width)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_embeddings_do_not_depend_on_the_batch(encoder: RegionEncoder) -> None:
    every = embed_texts(encoder, tokens(*LENGTHS), batch_size=4)
    assert torch.equal(embed_texts(encoder, tokens(*LENGTHS)[3:], batch_size=64), every[3:])
    assert torch.equal(embed_texts(encoder, tokens(*LENGTHS).flip(0), batch_size=1).flip(0), every)


def test_more_texts_than_a_batch(encoder: RegionEncoder) -> None:
    many = tokens(*([3] * 130), 9)
    found = embed_texts(encoder, many, batch_size=4)
    assert torch.equal(found[100:], embed_texts(encoder, many[100:], batch_size=4))


def test_no_text(encoder: RegionEncoder) -> None:
    assert embed_texts(encoder, tokens(), batch_size=4).shape == (0, encoder.width)


def test_hash_depends_on_the_text_tower_only(encoder: RegionEncoder) -> None:
    before = text_tower_hash(encoder)
    with torch.no_grad():
        encoder.logit_scale += 1
        for _, parameter in encoder.vision_parameters():
            parameter.add_(1)
    assert text_tower_hash(encoder) == before
    [(_, last)] = list(encoder.text_parameters())[-1:]
    with torch.no_grad():
        last.view(-1)[-1] += 1e-3
    assert text_tower_hash(encoder) != before


def test_hash_depends_on_the_activation(encoder: RegionEncoder) -> None:
    before = text_tower_hash(encoder)
    for block in encoder.text_tower.get_submodule("transformer.resblocks").children():
        block.mlp.gelu = torch.nn.ReLU()
    assert text_tower_hash(encoder) != before


def test_hash_depends_on_the_number_of_heads(encoder: RegionEncoder) -> None:
    before = text_tower_hash(encoder)
    for block in encoder.text_tower.get_submodule("transformer.resblocks").children():
        block.attn.num_heads *= 2
    assert text_tower_hash(encoder) != before
