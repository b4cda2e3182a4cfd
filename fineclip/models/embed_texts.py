"""Embed many texts with a frozen text tower, and hash a text tower.

Legend: T texts, L tokens of a text, D embedding width.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from fineclip.models.batches import full_batches, rows_at_once
from fineclip.models.encoder import RegionEncoder

STEP = 8  # tokens; lengths are rounded up to a multiple, so that there are few shapes
CPU_BATCH = 64


def text_tower_hash(encoder: RegionEncoder) -> str:
    """Hash everything that determines the embedding of a text from its tokens.

    Args:
        encoder: Only its text tower is read.

    Returns:
        sha256 of activation and number of heads of each block, and of name, type, shape and bytes of each parameter.
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
    """Embed texts in batches of equal length.

    The shape of a batch depends on the length only, so an embedding does not depend on the other texts.

    Args:
        encoder: Its device is used.
        tokens_TL: On the CPU.
        batch_size: Texts per batch on a GPU; on a CPU it is always `CPU_BATCH`.

    Returns:
        (T, D) float32 on the CPU, not normalized, as `RegionEncoder.encode_text`.
    """
    device = encoder.logit_scale.device
    size = rows_at_once(device, batch_size, on_cpu=CPU_BATCH)
    embedding_TD = torch.empty(len(tokens_TL), encoder.width)
    with tqdm(total=len(tokens_TL), desc="texts", unit="text", disable=None) as progress:
        for index_N, length in _batches(tokens_TL, size):
            encoded_ND = encoder.encode_text(tokens_TL[index_N, :length].to(device))
            embedding_TD[index_N] = encoded_ND.float().cpu()  # padding rows are copies, so they write the same values
            progress.update(len(set(index_N)))
    return embedding_TD


def _batches(tokens_TL: Tensor, size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices of the texts of each batch and their length in tokens, shortest first."""
    length_T = torch.ceil((tokens_TL.argmax(dim=1) + 1) / STEP).long() * STEP
    for length in sorted(set(length_T.tolist())):
        of_length = (length_T == length).nonzero()[:, 0].tolist()
        for batch in full_batches(of_length, size):
            yield batch, min(length, tokens_TL.shape[1])
