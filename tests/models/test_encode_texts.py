"""Trimmed texts have the embeddings and gradients of upstream at full length; attention."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.blocks import dot_product_attention
from fineclip.models.tokenizer import trim_padding
from tests.helpers.encoders import encoder_config, tiny_encoder

START, END, LENGTH = 510, 511, 77
TOWERS = ["eva", "openai"]  # the text tower by itself, and as a part of the model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(*lengths: int) -> Tensor:
    """A start, so many tokens, an end, zeros; a length of -1 is a row of zeros."""
    rows = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if length >= 0:
            words = torch.randint(1, START, (length,), generator=torch.Generator().manual_seed(index))
            row[: length + 2] = torch.tensor([START, *words.tolist(), END])
    return rows


def end_twice() -> Tensor:
    """The first end counts; what stands behind it must not matter."""
    rows = tokens(3, 1)
    rows[0, 8:10] = torch.tensor([7, END])
    return rows


CASES = {
    "short": tokens(3, 1, 6),
    "one has no token": tokens(2, -1, 4),
    "none has a token": tokens(-1, -1),
    "full": tokens(LENGTH - 2, 2),
    "one": tokens(0),
    "end twice": end_twice(),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", TOWERS)
def test_trimmed_texts_have_the_same_embeddings_and_gradients(kind: str, tmp_path: Path, case: str) -> None:
    whole_NL = CASES[case]
    cut_NL = trim_padding(whole_NL)
    encoder = tiny_encoder(tmp_path, kind).double()
    upstream = build_model(encoder_config(tmp_path, kind)).double().eval()
    upstream.load_state_dict(encoder.state_dict(), strict=True)
    weight = random(len(whole_NL), 32)
    found = []
    for model, texts_NL in ((upstream, whole_NL), (encoder, whole_NL), (encoder, cut_NL)):
        model.zero_grad(set_to_none=True)
        embedding_ND = model.encode_text(texts_NL)
        (F.normalize(embedding_ND, dim=-1) * weight).sum().backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        found.append((embedding_ND.detach(), gradients))
    expected, *others = found
    assert len(expected[1]) > 20
    for embedding_ND, gradients in others:
        torch.testing.assert_close(embedding_ND, expected[0], rtol=1e-10, atol=1e-10)
        assert gradients.keys() == expected[1].keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[1][name], rtol=1e-9, atol=1e-10, msg=f"{case}: {name}")


def test_trimmed_length() -> None:
    lengths = {case: trim_padding(rows).shape[1] for case, rows in CASES.items()}
    assert lengths == {"short": 8, "one has no token": 6, "none has a token": 1, "full": 77, "one": 2, "end twice": 5}
    assert trim_padding(torch.zeros(0, LENGTH, dtype=torch.long)).shape == (0, 1)
    assert torch.equal(trim_padding(CASES["short"]), CASES["short"][:, :8])


@pytest.mark.parametrize("kind", TOWERS)
def test_a_text_does_not_depend_on_its_batch(kind: str, tmp_path: Path) -> None:
    encoder, rows = tiny_encoder(tmp_path, kind).double(), CASES["short"]
    with torch.no_grad():
        together = encoder.encode_text(rows)
        alone = torch.cat([encoder.encode_text(trim_padding(row[None])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("length", [0, LENGTH + 1])
def test_texts_of_wrong_length_are_refused(kind: str, tmp_path: Path, length: int) -> None:
    with pytest.raises(ConfigError, match=f"texts of {length} tokens, but the text tower reads 1 to 77"):
        tiny_encoder(tmp_path, kind).encode_text(torch.zeros(1, length, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mask", ["none", "causal", "visible"])
def test_fused_and_unfused_attention_are_equal(mask: str, dtype: torch.dtype) -> None:
    """In half precision on a CPU two products take the place of the fused attention."""
    query, key, value = (random(2, 3, 9, 8, seed=seed) for seed in range(3))
    visible = (torch.arange(9) <= torch.tensor([[2], [8]]))[:, None, None] if mask == "visible" else None
    allowed = torch.ones(9, 9, dtype=torch.bool).tril() if mask == "causal" else visible
    logits = query @ key.transpose(2, 3) / 8**0.5
    expected = (logits if allowed is None else logits.masked_fill(~allowed, float("-inf"))).softmax(dim=-1) @ value
    found = dot_product_attention(
        *(part.to(dtype) for part in (query, key, value)), causal=mask == "causal", visible_B11K=visible
    )
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(40, 40, 16), (1, 40, 16), (3, 1024, 8), (3, 1025, 8), (9, 9, 64)]
)
def test_logits_are_scaled_by_the_width_of_a_head(queries: int, keys: int, width: int, dtype: torch.dtype) -> None:
    """The number of keys, of queries and the width differ, and logits are large, so that another scale is another result."""
    query = 4 * random(2, 3, queries, width, seed=0).to(dtype)
    key, value = (random(2, 3, keys, width, seed=seed).to(dtype) for seed in (1, 2))
    logits = query.double() @ key.double().transpose(2, 3) / width**0.5
    expected = logits.softmax(dim=-1) @ value.double()
    error = (dot_product_attention(query, key, value).double() - expected).norm() / expected.norm()
    assert error < {torch.bfloat16: 0.03, torch.float16: 0.004, torch.float32: 1e-5}[dtype]
