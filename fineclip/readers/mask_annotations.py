"""Annotations of COCO's form that have a mask and no box: `segmentation` as polygons or runs, and no `bbox`."""

import logging
from pathlib import Path
from typing import Any

from fineclip.errors import DataError
from fineclip.readers.masks import box_of_segmentation, size_of_segmentation

log = logging.getLogger(__name__)


def add_boxes_of_masks(sections: Any, path: Path) -> None:
    """Add `bbox` to each annotation that has a `segmentation` alone, and the size of its mask to an image that states none.

    An annotation whose mask has no pixel or cannot be read stays without a box, as any annotation without content.

    Args:
        sections: Decoded JSON, changed in place; one of another form stays as it is.
        path: File of the JSON, for messages.

    Raises:
        DataError: A mask is of another size than its image.
    """
    annotations, images = (
        sections.get(name) if isinstance(sections, dict) else None for name in ("annotations", "images")
    )
    by_id: dict[Any, dict[str, Any]] | None = None
    unreadable: list[str] = []
    for index, values in enumerate(annotations if isinstance(annotations, list) else ()):
        if not isinstance(values, dict) or values.get("bbox") or not values.get("segmentation"):
            continue
        mask = values["segmentation"]
        try:
            box = box_of_segmentation(mask)
        except ValueError as error:
            unreadable.append(f"annotations[{index}]: {error}")
            continue
        if box is not None:
            values["bbox"] = [box.x1, box.y1, box.width, box.height]
        number = values.get("image_id")
        if isinstance(mask, dict) and isinstance(number, int | float | str):
            by_id = _by_id(images) if by_id is None else by_id
            _state_size(by_id.get(number, {}), mask, f"{path}: annotations[{index}]")
    if unreadable:
        log.warning("%s: %d masks cannot be read, such as that of %s", path, len(unreadable), unreadable[0])


def _by_id(images: Any) -> dict[Any, dict[str, Any]]:
    listed = [one for one in images if isinstance(one, dict)] if isinstance(images, list) else []
    return {one["id"]: one for one in listed if isinstance(one.get("id"), int | float | str)}


def _state_size(image: dict[str, Any], mask: Any, where: str) -> None:
    height, width = size_of_segmentation(mask)
    for side, pixels in (("width", width), ("height", height)):
        if image.get(side) is None:
            image[side] = pixels
        elif image[side] != pixels:
            raise DataError(
                f"{where}: the mask is {width} x {height} pixels, but {side} of its image is {image[side]!r}. Masks and images must have"
                " the same size."
            )
