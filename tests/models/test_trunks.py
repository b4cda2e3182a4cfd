"""Every grid of patches equals upstream's tower built for that grid, in the global and the dense path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from fineclip.errors import ConfigError
from fineclip.models.architecture import build_model
from fineclip.models.encoder import RegionEncoder
from fineclip.models.rotary import apply_rotary, rotary_table
from fineclip.models.trunks import build_trunk, resize_positions
from fineclip.train.memory import saved_bytes
from tests.helpers.encoders import KINDS, encoder_config, tiny_encoder, tiny_eva02
from tests.helpers.marks import needs_compiler

close = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [(32, 32), (24, 56), (64, 16), (8, 8), (48, 48)]  # height, width; 64 x 16 has as many patches as 32 x 32
POSITIONS = {"openai": "positional_embedding", "mean": "positional_embedding", "eva": "trunk.pos_embed"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def upstream_at(folder: Path, kind: str, encoder: RegionEncoder, size: tuple[int, int]) -> nn.Module:
    """open_clip's model with the encoder's weights and that native size: it computes no grid that is not its own."""
    model = build_model(encoder_config(folder, kind)).eval()
    weights = dict(encoder.state_dict())
    if kind == "eva":
        model.visual.trunk = tiny_eva02(img_size=size, num_classes=encoder.width).eval()
    else:
        model.visual.grid_size = (size[0] // 8, size[1] // 8)
        model.visual.positional_embedding = nn.Parameter(torch.zeros(1 + size[0] // 8 * (size[1] // 8), 64))
    name = f"visual.{POSITIONS[kind]}"
    learned_TC = weights[name].reshape(-1, 64)
    grid = F.interpolate(learned_TC[1:].T.reshape(1, 64, 4, 4), (size[0] // 8, size[1] // 8), mode="bicubic")
    weights[name] = torch.cat([learned_TC[:1], grid[0].flatten(1).T]).reshape(*weights[name].shape[:-2], -1, 64)
    model.load_state_dict(weights, strict=True)
    return model


def dense_by_hand(kind: str, model: nn.Module, images: Tensor) -> Tensor:
    """The recipe on what comes into upstream's last block: each token's own value in place of attention."""
    seen: dict[str, Tensor] = {}
    visual = model.visual
    last = visual.trunk.blocks[-1] if kind == "eva" else visual.transformer.resblocks[-1]
    last.register_forward_pre_hook(lambda _, given: seen.update(tokens=given[0]))
    visual(images)
    x = seen["tokens"]
    if kind == "eva":
        x = x + last.attn.proj(last.attn.norm(last.attn.v_proj(last.norm1(x))))  # the norm inside the attention is kept
        x = x + last.mlp(last.norm2(x))
        tokens = visual.trunk.head(visual.trunk.norm(x[:, 1:]))
    else:
        value = last.ln_1(x) @ last.attn.in_proj_weight[128:].T + last.attn.in_proj_bias[128:]
        x = x + value @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        x = x + last.mlp(last.ln_2(x))
        tokens = visual.ln_post(x[:, 1:]) @ visual.proj
    height, width = images.shape[2] // 8, images.shape[3] // 8
    return F.normalize(tokens, dim=-1).transpose(1, 2).reshape(len(images), 32, height, width)


@pytest.mark.parametrize("size", SIZES)
def test_every_grid_equals_upstream_built_for_it(kind: str, tmp_path: Path, size: tuple[int, int]) -> None:
    encoder, images = tiny_encoder(tmp_path, kind), random(3, 3, *size)
    upstream = upstream_at(tmp_path, kind, encoder, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(images), upstream.encode_image(images), **close)
        torch.testing.assert_close(encoder.encode_dense(images), dense_by_hand(kind, upstream, images), **close)


def test_gradients_equal_upstream(kind: str, tmp_path: Path) -> None:
    """Also of what is computed in another way: the first row of the last block alone, queries and keys turned in pairs."""
    encoder, images = tiny_encoder(tmp_path, kind), random(3, 3, 32, 32)
    upstream, weight = upstream_at(tmp_path, kind, encoder, (32, 32)), random(3, 32, seed=1)
    for model in (encoder, upstream):
        (model.encode_image(images) * weight).sum().backward()
    expected = {name: value.grad for name, value in upstream.named_parameters() if value.grad is not None}
    found = {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-6 + 1e-5 * float(gradient.abs().max()), rtol=0, msg=name
        )


def test_the_first_rows_of_the_last_block_alone(kind: str, tmp_path: Path) -> None:
    trunk = tiny_encoder(tmp_path, kind).trunk
    with torch.no_grad():
        hidden = trunk.forward_before_last(random(2, 3, 24, 40))
        for rows in (1, 5):
            torch.testing.assert_close(trunk.last(hidden, rows=rows), trunk.last(hidden)[:, :rows], **close)


def test_positions_keep_the_class_row_and_do_not_smooth() -> None:
    learned = random(17, 8)
    smaller = resize_positions(learned, native=(4, 4), grid=(2, 6))
    assert smaller.shape == (13, 8)
    assert torch.equal(smaller[0], learned[0])
    grid = F.interpolate(learned[1:].T.reshape(1, 8, 4, 4), (2, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(smaller[1:], grid[0].reshape(8, 12).T)
    assert resize_positions(learned, native=(4, 4), grid=(4, 4)) is learned


def test_rotary_positions_spread_over_the_reference_grid(tmp_path: Path) -> None:
    """Row r of h lies at 16 r / h, column c of w at 16 c / w, on rectangles too; the class token is not turned."""
    rope = tiny_encoder(tmp_path, "eva").visual.trunk.rope
    rotary = rotary_table(rope, (2, 8), torch.device("cpu"))  # 16 patches, as the native 4 x 4 has
    frequency = 10000 ** (-torch.arange(4) / 4)
    assert torch.equal(rotary[0], torch.tensor([1.0, 0.0]).expand(8, 2))
    for row, column in ((0, 0), (1, 5), (1, 7)):
        angles = torch.cat([16 * row / 2 * frequency, 16 * column / 8 * frequency])
        expected = torch.stack([angles.cos(), angles.sin()], dim=-1)
        torch.testing.assert_close(rotary[1 + 8 * row + column], expected, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_equals_timm(tmp_path: Path, dtype: torch.dtype) -> None:
    rope = tiny_encoder(tmp_path, "eva").visual.trunk.rope
    rotary, table = rotary_table(rope, (4, 4), torch.device("cpu")), rope.get_embed()
    rows, weight = random(2, 17, 4, 16).to(dtype).requires_grad_(), random(2, 17, 4, 16, seed=1).to(dtype)
    (ours := apply_rotary(rows, rotary)).backward(weight)
    gradient, rows.grad = rows.grad, None
    patches = apply_rot_embed_cat(rows[:, 1:].transpose(1, 2), table).transpose(1, 2)
    (theirs := torch.cat([rows[:, :1], patches.to(dtype)], dim=1)).backward(weight)
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(gradient, rows.grad, **tolerance)


def test_rotary_for_the_compiler_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotary = rotary_table(tiny_encoder(tmp_path, "eva").visual.trunk.rope, (4, 4), torch.device("cpu"))
    rows = random(2, 17, 4, 16)
    expected = apply_rotary(rows, rotary)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(apply_rotary(rows, rotary), expected, atol=1e-6, rtol=1e-6)


def images_and_gradients(encoder: RegionEncoder) -> list[torch.Tensor]:
    """Embeddings of images and regions, and what a loss of both does to every weight of the tower."""
    encoder.zero_grad()
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9]] * 3)
    image, region = encoder.encode_image_and_regions(random(2, 3, 32, 32), boxes, torch.tensor([0, 0, 1]))
    (image.square().sum() + region.square().sum()).backward()
    return [image.detach(), region.detach(), *(each.grad.clone() for _, each in encoder.vision_parameters())]


@pytest.mark.parametrize("kind", ["eva", "openai"])
def test_checkpointing_changes_no_bit(tmp_path: Path, kind: str) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    expected = images_and_gradients(encoder)
    whole, _ = saved_bytes(encoder, 32, dtype=None, has_regions=True)
    encoder.trunk.checkpointing = True
    assert saved_bytes(encoder, 32, dtype=None, has_regions=True)[0] < 0.7 * whole
    assert all(torch.equal(*pair) for pair in zip(images_and_gradients(encoder), expected, strict=True))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", ["eva", "openai"])
def test_compiled_blocks_differ_by_rounding(tmp_path: Path, kind: str) -> None:
    encoder = tiny_encoder(tmp_path, kind)
    expected = images_and_gradients(encoder)
    encoder.trunk.compile()
    for found, value in zip(images_and_gradients(encoder), expected, strict=True):
        assert (found - value).norm() <= 1e-5 * value.norm() + 1e-7


def test_rotary_table_of_inference_mode_is_usable_in_training(tmp_path: Path) -> None:
    encoder, images = tiny_encoder(tmp_path, "eva"), random(1, 3, 32, 32)
    with torch.inference_mode():
        encoder.encode_image(images)
    encoder.encode_image(images).sum().backward()
    assert encoder.visual.trunk.blocks[0].attn.q_proj.weight.grad.any()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 3, 36, 32), "images of 36 x 32 px are not multiples of the patch of 8 x 8 px"),
        ((1, 3, 32, 0), "images of 32 x 0 px"),
        ((1, 1, 32, 32), r"images of shape \(1, 1, 32, 32\): expected \(B, 3, height, width\)"),
        ((3, 32, 32), r"images of shape \(3, 32, 32\)"),
    ],
)
def test_images_of_wrong_shape_are_refused(kind: str, tmp_path: Path, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tiny_encoder(tmp_path, kind).encode_image(torch.zeros(shape))


def with_other_pairs(trunk: Any) -> None:
    trunk.rope.rotate_half = True


def with_a_gate(trunk: Any) -> None:
    trunk.blocks[1].attn.gate = nn.Linear(64, 64)


def with_a_norm_after_pooling(trunk: Any) -> None:
    trunk.fc_norm = nn.LayerNorm(64)


def with_registers(trunk: Any) -> None:
    trunk.num_prefix_tokens = 5


def with_jitter(trunk: Any) -> None:
    trunk.rope.aug_active = True


def without_positions(trunk: Any) -> None:
    trunk.pos_embed = None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_other_pairs, "rotary positions of distant channels"),
        (with_a_gate, "gated attention"),
        (with_a_norm_after_pooling, "a norm after its pooling"),
        (with_registers, "register tokens"),
        (with_jitter, "jittered rotary positions"),
        (without_positions, "no learned positions"),
    ],
)
def test_eva_trunks_with_other_modules_are_refused(
    tmp_path: Path, change: Callable[[nn.Module], None], says: str
) -> None:
    visual = tiny_encoder(tmp_path, "eva").visual
    change(visual.trunk)
    with pytest.raises(ConfigError, match=says):
        build_trunk(visual)
