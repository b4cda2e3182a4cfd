"""Pooling of boxes and masks: known numbers, and defined results for empty boxes and masks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.errors import ConfigError
from fineclip.models.encoder import pool_masks, pool_regions
from tests.helpers.encoders import KINDS, tiny_encoder

COUNTED = torch.arange(16.0).reshape(1, 1, 4, 4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first(count: int) -> Tensor:
    """All of the first image."""
    return torch.zeros(count, dtype=torch.long)


def pooled(dense: Tensor, *boxes: tuple[float, float, float, float]) -> list[float]:
    return pool_regions(dense, torch.tensor(boxes, dtype=torch.float32), first(len(boxes))).flatten().tolist()


def test_regions_of_a_known_map() -> None:
    """A box over whole cells is their mean; half a cell is not lost (aligned)."""
    found = pooled(COUNTED, (0, 0, 1, 1), (0.5, 0.25, 0.75, 0.5), (0.25, 0, 0.75, 0.5))
    assert found == pytest.approx([7.5, 6.0, 3.5])


def test_regions_of_a_wide_map() -> None:
    """x counts across, y down, each in its own number of cells; each box is of its own image."""
    dense = torch.stack([torch.arange(8.0).reshape(1, 2, 4), torch.full((1, 2, 4), 9.0)])
    boxes = torch.tensor([[0.5, 0, 0.75, 0.5], [0.75, 0.5, 1, 1], [0, 0, 0.5, 1]])
    region = pool_regions(dense, boxes, torch.tensor([0, 0, 1]))
    assert region.flatten().tolist() == pytest.approx([2, 7, 9])


def test_as_many_samples_as_the_box_has_cells() -> None:
    """A box of 1.5 cells takes two samples across; on a map of squares one or three would be another number."""
    squares = (torch.arange(4.0) ** 2).expand(1, 1, 4, 4)
    samples = (1 + 1.5 * share - 0.5 for share in (0.25, 0.75))  # counted from the middle of the first cell
    between = [3 * x - 2 if x > 1 else x for x in samples]  # straight lines from square to square
    assert pooled(squares, (1 / 4, 0, 2.5 / 4, 1 / 4)) == pytest.approx([sum(between) / 2])


@pytest.mark.parametrize(
    "box", [(0.5, 0.2, 0.5, 0.8), (0.2, 0.5, 0.8, 0.5), (0.3, 0.3, 0.3, 0.3), (0.8, 0.2, 0.2, 0.8)]
)
def test_a_box_without_area_gives_zeros_and_no_gradient(box: tuple[float, float, float, float]) -> None:
    dense = normalize(random(1, 8, 4, 4), dim=1).requires_grad_()
    region = pool_regions(dense, torch.tensor([box]), first(1))
    assert not region.any()
    normalize(region, dim=-1).sum().backward()
    assert not dense.grad.any()


def test_boxes_outside_the_map() -> None:
    """For a cell the border goes on, beyond are zeros: of four samples across, three count."""
    ones = torch.ones(1, 1, 4, 4)
    assert pooled(ones, (-0.5, 0, 0.5, 1), (0.5, 0.5, 1.5, 1.5), (2, 2, 3, 3)) == pytest.approx([3 / 4, 9 / 16, 0])
    columns = torch.tensor([1.0, 10.0, 0, 0]).expand(1, 1, 4, 4)
    assert pooled(columns, (-0.5, 0, 0.5, 1)) == pytest.approx([(0 + 1 + 1 + 10) / 4])


def test_masks_of_a_known_map() -> None:
    """The mean of the cells, weighted where a mask is neither 0 nor 1, of the mask's own image; none gives zeros."""
    maps = torch.cat([COUNTED, 100 + COUNTED])
    masks = torch.zeros(5, 4, 4)
    masks[0] = 1
    masks[1, 1, 2] = 1
    masks[2, 0] = torch.tensor([1.0, 0.5, 0.5, 0.0])
    masks[4, 3, 3] = 1
    found = pool_masks(maps, masks, torch.tensor([0, 0, 0, 0, 1])).flatten().tolist()
    assert found == pytest.approx([7.5, 6, 0.75, 0, 115])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_masks_of_any_type(dtype: torch.dtype) -> None:
    dense, masks = random(2, 8, 3, 5), (random(4, 3, 5, seed=1) > 0).to(dtype)
    owner = torch.tensor([0, 1, 1, 1])
    expected = torch.stack([dense[image][:, mask.bool()].mean(dim=1) for mask, image in zip(masks, owner, strict=True)])
    found = pool_masks(dense, masks, owner)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_no_region_has_no_row_and_stays_connected() -> None:
    dense = random(2, 8, 3, 5).requires_grad_()
    for found in (pool_regions(dense, torch.zeros(0, 4), first(0)), pool_masks(dense, torch.zeros(0, 3, 5), first(0))):
        assert found.shape == (0, 8)
        dense.grad = None
        found.sum().backward()
        assert dense.grad is not None and not dense.grad.any()


@pytest.mark.parametrize(
    ("boxes", "owners", "says"),
    [
        (torch.zeros(2, 5), first(2), "expected R regions of 4"),
        (torch.zeros(2, 4), first(3), r"shape \(2, 4\) with \(3,\) indices"),
        (torch.zeros(2, 4), torch.tensor([0, 2]), "image index 2, but there are 2 images"),
        (torch.zeros(2, 4), torch.tensor([-1, 0]), "image index -1, but there are 2 images"),
        (torch.tensor([[0, 0, 600, 400]] * 2), first(2), "reach as far as 600: expected fractions"),
        (torch.tensor([[0, 0, 1, float("nan")]] * 2), first(2), "reach as far as nan: expected fractions"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(boxes: Tensor, owners: Tensor, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pool_regions(random(2, 8, 4, 4), boxes, owners)


@pytest.mark.parametrize(
    ("masks", "owners", "says"),
    [
        (torch.ones(2, 6, 4), first(2), r"shape \(2, 6, 4\) .* R regions of 4 x 6"),
        (torch.ones(2, 8, 12), first(2), "R regions of 4 x 6"),
        (torch.ones(4, 6), first(4), "R regions of 4 x 6"),
        (torch.ones(1, 4, 6), torch.tensor([1]), "image index 1, but there is 1 image"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: Tensor, owners: Tensor, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pool_masks(random(1, 8, 4, 6), masks, owners)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_masks_are_pooled_on_the_dense_map(kind: str, tmp_path: Path) -> None:
    """A mask that is a box of whole cells is that box."""
    encoder, images = tiny_encoder(tmp_path, kind), random(2, 3, 24, 48)
    masks = torch.zeros(2, 3, 6)
    masks[0, 1:, 2:5] = 1
    masks[1, 0, 0] = 1
    boxes = torch.tensor([[2 / 6, 1 / 3, 5 / 6, 1], [0, 0, 1 / 6, 1 / 3]])
    owners = torch.tensor([0, 1])
    with torch.no_grad():
        found, expected = (
            encode(images, rows, owners)
            for encode, rows in ((encoder.encode_masks, masks), (encoder.encode_regions, boxes))
        )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
