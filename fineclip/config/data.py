"""Sections of the data stages: source, filter, select, detect, caption, concepts, pack."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fineclip.config.base import (
    OURS,
    NotNegativeFloat,
    NotNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Sha256,
    Share,
    key,
)


class WeightsConfig(Section):
    """Location of the weights of a model: exactly one of `shipped`, `hub` and `url`, or a local `path` alone."""

    shipped: str | None = key(None, origin=OURS, about="File or folder inside the package (miniature models).")
    path: str | None = key(
        None,
        origin=OURS,
        about="Local file or folder. It is used if it exists, before `hub` or `url`.",
    )
    hub: str | None = key(None, origin=OURS, about="Hugging Face repository id, OWNER/NAME. Needs `revision`.")
    hub_file: str | None = key(None, origin=OURS, about="One file of the hub repository; null: the whole repository.")
    revision: str | None = key(None, origin=OURS, about="Commit, tag or branch of the hub repository.")
    url: str | None = key(None, origin=OURS, about="Address of one file, http or https.")
    sha256: Sha256 | None = key(
        None,
        origin=OURS,
        about="SHA-256 of the file, 64 hex digits; for a folder, of its sorted lines `sha256  name`. null: recorded at the first download.",
    )
    size_mb: PositiveFloat | None = key(
        None, unit="MB", origin=OURS, about="Download size, shown if the weights are missing."
    )
    license: str | None = key(None, origin=OURS, about="SPDX id or name of the license of the weights.")

    @model_validator(mode="after")
    def _check_origin(self) -> Self:
        origins = [name for name in ("shipped", "hub", "url") if getattr(self, name) is not None]
        if len(origins) > 1 or not (origins or self.path):
            raise ValueError("give exactly one of shipped, hub and url, or a path alone")
        if self.hub and not self.revision:
            raise ValueError("hub needs a revision: name a commit of the repository")
        if self.shipped and (PurePosixPath(self.shipped).is_absolute() or ".." in PurePosixPath(self.shipped).parts):
            raise ValueError("shipped must be a relative path inside the package")
        return self


class MiniatureSource(Section):
    """Generated scenes, with the defects of web data (small images, duplicates, boilerplate captions)."""

    kind: Literal["miniature"] = key(origin=OURS, about="Scenes that the package draws.")
    seed: NotNegativeInt = key(
        20_000, origin=OURS, about="Seed of the scenes. The shipped models were trained on other seeds."
    )
    images: PositiveInt = key(2600, unit="images", origin=OURS, about="Number of scenes, including defective ones.")
    images_per_shard: PositiveInt = key(650, unit="images", origin=OURS, about="Images per shard.")


class FolderSource(Section):
    """A folder of images, with captions in text files or in one table."""

    kind: Literal["folder"] = key(origin=OURS, about="A folder of images with captions.")
    root: str = key(origin=OURS, about="Folder of the images, read recursively, never written to.")
    captions: str | None = key(
        None,
        origin=OURS,
        about="CSV or parquet file with the columns `image` (path under root) and `caption`. null: NAME.txt beside NAME.jpg, one caption per line.",
    )
    seed: NotNegativeInt = key(0, origin=OURS, about="Seed of the sample order.")
    images_per_shard: PositiveInt = key(5000, unit="images", origin=OURS, about="Images per shard.")


class CocoSource(Section):
    """COCO or LVIS: captions and boxes in JSON files, images in a folder. All captions of an image are kept."""

    kind: Literal["coco"] = key(origin=OURS, about="JSON files of COCO with a folder of images.")
    root: str = key(origin=OURS, about="Folder of the three paths below, never written to.")
    images: str = key("train2017", origin="COCO 2017", about="Folder of the images, under root.")
    captions: str | None = key(
        "annotations/captions_train2017.json",
        origin="COCO 2017",
        about="Captions JSON, under root. null: images have no captions and are listed by `instances` (LVIS).",
    )
    instances: str | None = key(
        "annotations/instances_train2017.json",
        origin="COCO 2017",
        about="Boxes JSON, under root, for `engine: annotations`. null: no boxes.",
    )
    seed: NotNegativeInt = key(0, origin=OURS, about="Seed of the sample order.")
    images_per_shard: PositiveInt = key(5000, unit="images", origin=OURS, about="Images per shard.")

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if self.captions is None and self.instances is None:
            raise ValueError("captions and instances are both null: give at least one, it lists the images")
        return self


class WebDatasetSource(Section):
    """Existing WebDataset tars, read in place: the output of img2dataset, cc3m-wds."""

    kind: Literal["webdataset"] = key(origin=OURS, about="Tars with image and text members, read in place.")
    root: str = key(origin=OURS, about="Folder of the tars, never written to.")
    pattern: str = key("*.tar", origin=OURS, about="Glob pattern of the tars in root.")
    seed: NotNegativeInt = key(0, origin=OURS, about="Seed of the shard order.")
    tars_per_shard: PositiveInt = key(1, unit="tars", origin=OURS, about="Tars per shard, in the order of their names.")
    samples_per_tar: PositiveInt = key(
        5000,
        unit="samples",
        origin="cc3m-wds: 5,045 a tar",
        about="Expected samples per tar; used only to plan the number of shards.",
    )
    expected_tars: PositiveInt | None = key(
        None,
        unit="tars",
        origin=OURS,
        about="Stop before the first job if the number of tars differs; null: use all tars that exist.",
    )


SourceConfig = Annotated[MiniatureSource | FolderSource | CocoSource | WebDatasetSource, Field(discriminator="kind")]

BOILERPLATE = (
    r"click here.*",
    r"free download.*",
    r"(img|dsc|image|photo)[ _-]?\d+.*",
    r"(untitled|no caption|none|null|n/a)",
    r".*\bphoto album",
)


class FilterConfig(Section):
    """Rules that drop samples. The paper states only that low-resolution images are removed; the thresholds are our choice."""

    min_side_px: PositiveInt = key(200, unit="px", origin=OURS, about="Minimum length of the shorter image side.")
    max_aspect: float = key(
        3.0, origin="GranViT: 1/3 to 3", about="Maximum ratio of the longer to the shorter image side.", ge=1
    )
    min_words: NotNegativeInt = key(
        2, unit="words", origin=OURS, about="Minimum words of a caption; 0 also keeps images without captions."
    )
    max_words: PositiveInt = key(200, unit="words", origin=OURS, about="Maximum words of a caption.")
    boilerplate: tuple[str, ...] = key(
        BOILERPLATE,
        origin=OURS,
        about="Regular expressions, case-insensitive. A caption that matches one completely is dropped.",
    )

    @field_validator("boilerplate")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class YoloDetect(Section):
    """Boxes predicted by an ultralytics model. Ultralytics has the license AGPL-3.0."""

    engine: Literal["yolo"] = key(origin=OURS, about="A model that ultralytics loads; the paper uses YOLOv9.")
    weights: WeightsConfig = key(
        origin=OURS, about="Checkpoint of the detector. It is a pickle file and is loaded only if `sha256` is given."
    )
    image_size: PositiveInt = key(
        640, unit="px", origin="YOLOv9", about="Side of the letterboxed input square, a multiple of 32."
    )
    confidence: Share = key(0.25, origin="ultralytics", about="Minimum score of a box.")
    iou: Share = key(0.5, origin=OURS, about="IoU threshold of the class-agnostic non-maximum suppression.")
    max_regions: PositiveInt = key(
        20, unit="boxes", origin="FineCLIP scripts: 20", about="Maximum boxes per image, highest scores first."
    )
    min_side_px: NotNegativeFloat = key(
        8.0, unit="px", origin="FineCLIP: 8", about="Minimum length of the shorter side of a box."
    )

    @field_validator("image_size")
    @classmethod
    def _check_stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError(
                f"must be a multiple of 32, the coarsest stride: take {value // 32 * 32 or 32} or {(value // 32 + 1) * 32}"
            )
        return value


class AnnotationsDetect(Section):
    """Boxes of the data set."""

    engine: Literal["annotations"] = key(origin=OURS, about="The boxes of the source.")
    max_regions: PositiveInt = key(
        20, unit="boxes", origin="FineCLIP scripts: 20", about="Maximum boxes per image, largest first."
    )
    min_side_px: NotNegativeFloat = key(
        8.0, unit="px", origin="FineCLIP: 8", about="Minimum length of the shorter side of a box."
    )


class BoxesJsonDetect(Section):
    """Released boxes, such as coco_proposals.json of FineCLIP and coco_pseudo_4764.json of CLIPSelf."""

    engine: Literal["boxes_json"] = key(origin=OURS, about="A JSON file in the format of COCO instances.")
    path: str = key(origin=OURS, about="Path of the JSON file. Its images are matched to samples by file name.")
    labels: bool = key(
        True,
        origin="CLIPSelf: coco_pseudo_4764.json",
        about="Take category names as region labels; false if the categories are placeholders (coco_proposals.json).",
    )
    score: str | None = key(
        "score",
        origin="COCO results",
        about="Key of the box score (0 to 1); a box without it has score 1. null: scores are not read.",
    )
    max_regions: PositiveInt | None = key(
        20,
        unit="boxes",
        origin="CLIPSelf: the first 20",
        about="Maximum boxes per image, in file order; null: all.",
    )
    min_side_px: NotNegativeFloat = key(
        8.0, unit="px", origin="FineCLIP: 8", about="Minimum length of the shorter side of a box."
    )
    max_side_px: PositiveFloat | None = key(
        None, unit="px", origin=OURS, about="Maximum length of the longer side of a box; null: no limit."
    )


DetectConfig = Annotated[YoloDetect | AnnotationsDetect | BoxesJsonDetect, Field(discriminator="engine")]


class Blip2Caption(Section):
    """Captions that BLIP-2 generates from region crops."""

    engine: Literal["blip2"] = key(origin=OURS, about="`Blip2ForConditionalGeneration` of transformers, on crops.")
    weights: WeightsConfig = key(origin=OURS, about="Folder or hub repository of the model and its processor.")
    prompt: str = key("", origin=OURS, about="Prompt of the language model; not part of the caption.")
    max_new_tokens: PositiveInt = key(20, unit="tokens", origin=OURS, about="Maximum length of a caption.")
    num_beams: PositiveInt = key(1, origin=OURS, about="Beams of the beam search; 1: greedy decoding.")
    context: float = key(
        1.0, origin="FineCLIP", about="Factor by which width and height of the box are enlarged before cropping.", ge=1
    )
    square: bool = key(
        False, origin=OURS, about="Extend the crop to a square, so that the processor keeps its aspect ratio."
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", origin=OURS, about="Data type of weights and computation.")


class TemplateCaption(Section):
    """A fixed sentence with the label of the region."""

    engine: Literal["template"] = key(origin=OURS, about="A sentence with the label of the region.")
    template: str = key(
        "a photo of a {label}", origin="CLIP", about="The sentence; `{label}` is replaced by the label."
    )

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: str) -> str:
        if "{label}" not in value or value.replace("{label}", "").count("{"):
            raise ValueError("must hold {label} and no other braces")
        return value


class CaptionsJsonCaption(Section):
    """Released captions of boxes, such as coco_captions.json of FineCLIP."""

    engine: Literal["captions_json"] = key(origin=OURS, about="A JSON object of captions.")
    path: str = key(
        origin=OURS,
        about="Path of the JSON file. Its keys are IMAGE_X_Y_WIDTH_HEIGHT.jpg: the file name of the image with its suffix, then whole pixels.",
    )


CaptionConfig = Annotated[Blip2Caption | TemplateCaption | CaptionsJsonCaption, Field(discriminator="engine")]


class SelectConfig(Section):
    """Images that no scale contains."""

    exclude: tuple[str, ...] = key(
        (), origin=OURS, about="Benchmarks whose images are removed from the training data, by the SHA-256 of the file."
    )


VAGUE_NOUNS = (
    "area", "back", "background", "bit", "bottom", "bunch", "close", "closeup", "collection", "color", "couple",
    "day", "edge", "end", "foreground", "front", "group", "half", "image", "inside", "item", "kind",
    "lot", "middle", "number", "object", "other", "outside", "pair", "part", "photo", "photograph", "picture", "piece",
    "place", "position", "row", "scene", "set", "side", "something", "stuff", "style", "thing", "time", "top",
    "type", "use", "variety", "view", "way",
)  # fmt: skip


class ConceptsConfig(Section):
    """Concept names of a scale, used by RegionCLIP to classify regions."""

    from_: Literal["labels", "captions"] = key(
        "labels",
        alias="from",
        origin=OURS,
        about="`labels`: labels of the regions; `captions`: nouns of the English image captions, as in RegionCLIP.",
    )
    min_count: PositiveInt | None = key(
        None,
        origin="RegionCLIP: 100",
        about="Minimum number of regions with a label, or of captions with a noun. null: 1 for labels, 100 for captions.",
    )
    max_concepts: PositiveInt | None = key(
        None, unit="concepts", origin=OURS, about="Maximum number of concepts, most frequent first; null: all."
    )
    exclude: tuple[str, ...] = key(
        VAGUE_NOUNS, origin=OURS, about="Nouns that do not name a localizable object; used with `from: captions`."
    )

    @property
    def effective_min_count(self) -> int:
        """Return `min_count`, or its value for null."""
        return self.min_count or {"labels": 1, "captions": 100}[self.from_]


class PackConfig(Section):
    """Training shards. There are no options."""
