"""Many texts through a text tower that stays as it is, and what tells one such tower from another.

Legend: T texts, L tokens of a text, D embedding width.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from fineclip.models.batches import full_batches, rows_at_once
from fineclip.models.encoder import RegionEncoder

STEP = 8  # texts are cut to a multiple of so many tokens, so that there are few shapes
ON_CPU = 64


def text_tower_hash(encoder: RegionEncoder) -> str:
    """The sha256 of what decides which embedding a text has, once it is tokens.

    That is names, types, shapes and bytes of the tower's parameters, and what they do not show: activation and heads.
    """
    digest = hashlib.sha256()
    for block in encoder.text_tower.get_submodule("transformer.resblocks").children():
        digest.update(
            f"{type(block.get_submodule('mlp.gelu')).__name__} {block.get_submodule('attn').num_heads}\n".encode()
        )
    for name, parameter in sorted(encoder.text_parameters()):
        value = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.inference_mode()
def embed_texts(encoder: RegionEncoder, tokens_TL: Tensor, *, batch_size: int) -> Tensor:
    """(T, D) float32 on the host, not normalised, as `encode_text` gives them.

    Texts of about the same length go together, cut after their ends; the shape of a batch is a function of the length, so
    that an embedding does not depend on which other texts there are.

    Args:
        encoder: computes where it is, with its weights as they are.
        tokens_TL: on the host.
        batch_size: texts at once; always as many on a CPU.
    """
    device = encoder.logit_scale.device
    size = rows_at_once(device, batch_size, on_cpu=ON_CPU)
    embedding_TD = torch.empty(len(tokens_TL), encoder.width)
    with tqdm(total=len(tokens_TL), desc="texts", unit="text", disable=None) as progress:
        for index_N, length in _batches(tokens_TL, size):
            encoded_ND = encoder.encode_text(tokens_TL[index_N, :length].to(device))
            embedding_TD[index_N] = encoded_ND.float().cpu()  # what fills a batch up is written again, the same
            progress.update(len(set(index_N)))
    return embedding_TD


def _batches(tokens_TL: Tensor, size: int) -> Iterator[tuple[list[int], int]]:
    """Numbers of texts and how many tokens they have, shortest first."""
    length_T = torch.ceil((tokens_TL.argmax(dim=1) + 1) / STEP).long() * STEP
    for length in sorted(set(length_T.tolist())):
        of_length = (length_T == length).nonzero()[:, 0].tolist()
        for batch in full_batches(of_length, size):
            yield batch, min(length, tokens_TL.shape[1])
