"""Own boxes of own images, in the form in which other tools write them. One row per image that has a file or is listed.

    yolo            IMAGE.txt per image: yolo_boxes.py
    voc             IMAGE.xml per image: voc_boxes.py
    csv             one table: box_tables.py
    masks           IMAGE.png per image, an id per instance: masks.py
    mask_folders    a folder IMAGE/ with a PNG per instance

A file belongs to the image of the same path. The folder of the labels stands for that of the images: `labels/train/a.txt` is of
`images/train/a.jpg`, as ultralytics has it, and VOC's `Annotations` and `SegmentationObject` stand for `JPEGImages`.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fineclip.config import BoxesFilesDetect
from fineclip.errors import DataError
from fineclip.readers.box_tables import table_boxes
from fineclip.readers.files import files_below, is_image
from fineclip.readers.image_boxes import ImageBoxes, ScoredBox, read_labels
from fineclip.readers.masks import mask_boxes, read_ids, tight_box
from fineclip.readers.names import canonical_name
from fineclip.readers.text import to_valid_utf8
from fineclip.readers.voc_boxes import voc_boxes
from fineclip.readers.yolo_boxes import NAMES_FILES, Classes, find_names, read_classes, yolo_boxes
from fineclip.shards import sha256_of

log = logging.getLogger(__name__)

SUFFIXES = {"yolo": ".txt", "voc": ".xml", "masks": ".png", "mask_folders": ".png"}
IMAGES_OF = {"labels": "images", "Annotations": "JPEGImages", "SegmentationObject": "JPEGImages"}


@dataclass(frozen=True)
class BoxFiles:
    """Files of an entry of engine boxes_files.

    Attributes:
        labels: Each file of boxes by its name relative to the folder; for a table, the table alone.
        names: File of class names of format yolo, or None.
    """

    labels: Mapping[str, Path]
    names: Path | None = None

    def hashes(self, path: str) -> dict[str, str]:
        """Return the hash of names and contents of the labels, and of the class names.

        Args:
            path: Name of the labels in the result.

        Returns:
            SHA-256 in hexadecimal by name.

        Raises:
            DataError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for name, file in self.labels.items():
            digest.update(to_valid_utf8(name).encode() + b"\0" + _sha256(file).encode())
        names = {} if self.names is None else {self.names.as_posix(): _sha256(self.names)}
        return {path: digest.hexdigest()} | names


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}. Provide it, or make it readable.") from None


def box_files(config: BoxesFilesDetect) -> BoxFiles:
    """Return the files of boxes of an entry, sorted by name.

    Args:
        config: Format and path.

    Returns:
        Files of labels, and of class names.

    Raises:
        DataError: The path does not exist, or holds no file of the format.
    """
    path = Path(config.path)
    if config.format == "csv":
        if not path.is_file():
            raise DataError(f"{path}: no such file. Put it there, or name another.")
        return BoxFiles({path.name: path})
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Put the labels there, or name another.")
    suffix = SUFFIXES[config.format]
    found = dict(sorted((name, Path(entry.path)) for name, entry in files_below(path)))
    labels = {name: file for name, file in found.items() if PurePosixPath(name).suffix.lower() == suffix}
    names = names_file(config)
    if config.format == "yolo":
        labels = _label_files(labels, found, names)
    if not labels:
        raise DataError(
            f"{path}: holds no {suffix} of format {config.format}. Put the labels there, or name another folder."
        )
    require_names(config, where=config.path)
    return BoxFiles(labels, names)


def names_file(config: BoxesFilesDetect) -> Path | None:
    """Return the file of class names that an entry names or that lies with its labels; it also states the size of keypoints.

    Args:
        config: Keys `format` and `names`.

    Returns:
        Existing or named path, or None.
    """
    if config.format != "yolo":
        return None
    return Path(config.names) if config.names is not None else find_names(Path(config.path))


def boxes_in_files(config: BoxesFilesDetect, files: BoxFiles) -> Iterator[ImageBoxes]:
    """Yield the boxes of each image.

    Args:
        config: Format, path, and whether labels are read.
        files: The files of the entry.

    Yields:
        Images in the order of the files.

    Raises:
        DataError: A file cannot be read or has another form, two files are of one image, or classes have no names.
    """
    taken: dict[str, str] = {}
    for where, found in _images(config, files):
        image = canonical_name(found.image)
        if image in taken:
            raise DataError(f"{where}: is of the image {found.image}, as is {taken[image]}. Remove one of them.")
        taken[image] = where
        boxes = found.boxes if config.labels else [box._replace(label="") for box in found.boxes]
        yield found._replace(boxes=boxes)


def _images(config: BoxesFilesDetect, files: BoxFiles) -> Iterator[tuple[str, ImageBoxes]]:
    """Yield the place and the boxes of each image."""
    root = Path(config.path)
    match config.format:
        case "csv":
            yield from ((config.path, found) for found in table_boxes(root))
        case "yolo":
            classes = _classes(config, files)
            for name, file in files.labels.items():
                boxes = yolo_boxes(read_labels(file), classes, str(file))
                yield str(file), ImageBoxes(image_name(root, name), boxes, fractions=True)
        case "voc":
            for name, file in files.labels.items():
                yield str(file), voc_boxes(read_labels(file), image_name(root, name), str(file))
        case "masks":
            for name, file in files.labels.items():
                instances, (width, height) = mask_boxes(file)
                unnamed = [ScoredBox(box, "") for box in instances]
                yield str(file), ImageBoxes(image_name(root, name), unnamed, width, height)
        case "mask_folders":
            yield from _mask_folders(root, files.labels)


def require_names(config: BoxesFilesDetect, *, where: str) -> None:
    """Check that class names are there if the labels of an entry are numbers of classes.

    Args:
        config: Keys `format`, `labels` and `names`.
        where: Place of the entry, for the message.

    Raises:
        DataError: There is no file of names.
    """
    if config.format == "yolo" and config.labels and names_file(config) is None:
        raise DataError(
            f"{where}: none of {', '.join(NAMES_FILES)} is in {config.path} or in the two folders around it, so classes have no names."
            " Set names: FILE, or labels: false."
        )


def _classes(config: BoxesFilesDetect, files: BoxFiles) -> Classes | None:
    if files.names is None:
        return None
    classes = read_classes(files.names)
    if not config.labels:
        return classes._replace(names=None)
    log.info("names of classes are those of %s", files.names)
    return classes


def _mask_folders(root: Path, files: Mapping[str, Path]) -> Iterator[tuple[str, ImageBoxes]]:
    by_image: dict[str, list[Path]] = {}
    for name, file in files.items():
        folder = PurePosixPath(name).parent.as_posix()
        if folder == ".":
            raise DataError(
                f"{file}: is not in a folder of its image; expected {root}/IMAGE/NUMBER.png. For one mask per image set format: masks."
            )
        by_image.setdefault(folder, []).append(file)
    for folder, masks in by_image.items():
        boxes, size = list[ScoredBox](), None
        for file in masks:
            is_inside_HW = read_ids(file) > 0
            size = size or is_inside_HW.shape
            if is_inside_HW.shape != size:
                raise DataError(
                    f"{file}: is {is_inside_HW.shape[1]} x {is_inside_HW.shape[0]} pixels, and {masks[0].name} beside it is"
                    f" {size[1]} x {size[0]}. All masks of an image must have its size."
                )
            if is_inside_HW.any():
                boxes.append(ScoredBox(tight_box(is_inside_HW), ""))
            else:
                log.warning("%s: is empty and is left out", file)
        height, width = size or (None, None)
        yield str(masks[0].parent), ImageBoxes(_with_images(root, PurePosixPath(folder)), boxes, width, height)


def image_name(root: Path, name: str) -> str:
    """Return the name of the image of a file of labels, without a suffix.

    Args:
        root: Folder of the labels.
        name: Name of the file below it.

    Returns:
        Path relative to `root`; if a folder on the way stands for one of images, the whole path with that folder in its place.

    Examples:
        >>> image_name(Path("boxes"), "train/a.txt")
        'train/a'
        >>> image_name(Path("mine/labels"), "train/a.txt")
        'mine/images/train/a'
    """
    return _with_images(root, PurePosixPath(name).with_suffix(""))


def _with_images(root: Path, inside: PurePosixPath) -> str:
    parts = [*root.parts, *inside.parts]
    places = [place for place, part in enumerate(parts[:-1]) if part in IMAGES_OF]
    if not places:
        return to_valid_utf8(inside.as_posix())
    parts[places[-1]] = IMAGES_OF[parts[places[-1]]]
    return to_valid_utf8("/".join(part for part in parts if part != "/"))


def _label_files(labels: Mapping[str, Path], found: Mapping[str, Path], names: Path | None) -> dict[str, Path]:
    """Return the .txt that are label files: those in folders `labels` or, without any, those beside images, or else all."""
    own = {name: file for name, file in labels.items() if file.name not in NAMES_FILES and file != names}
    in_labels = {name: file for name, file in own.items() if "labels" in PurePosixPath(name).parts[:-1]}
    images = {str(PurePosixPath(name).with_suffix("")) for name in found if is_image(name)}
    beside = {name: file for name, file in own.items() if str(PurePosixPath(name).with_suffix("")) in images}
    chosen = in_labels or beside or own
    if left := [file for name, file in own.items() if name not in chosen]:
        log.warning(
            "%d .txt files are neither in a folder labels nor beside an image and are skipped: %s", len(left), left[0]
        )
    return chosen
