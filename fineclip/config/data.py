"""Sections of the data stages: where samples come from, what is kept, which regions, which captions."""

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
    """Where the weights of a model are found. Exactly one of `shipped`, `hub`, `url` or a bare `path`."""

    shipped: str | None = key(None, origin=OURS, about="name inside the package, for the models of the miniature world")
    path: str | None = key(
        None,
        origin=OURS,
        about="file or folder that is looked at first; with hub or url also where a person may put it",
    )
    hub: str | None = key(None, origin=OURS, about="Hugging Face repository id")
    hub_file: str | None = key(None, origin=OURS, about="one file of that repository; null takes the whole repository")
    revision: str | None = key(None, origin=OURS, about="commit of the hub repository; needed with hub")
    url: str | None = key(None, origin=OURS, about="address of one file, http or https")
    sha256: Sha256 | None = key(
        None,
        origin=OURS,
        about="hash of the file (of a folder: of its sorted `sha256  name` lines); null records it at the first fetch",
    )
    size_mb: PositiveFloat | None = key(
        None, unit="MB", origin=OURS, about="download size, for the message that asks for it"
    )
    licence: str | None = key(None, origin=OURS, about="SPDX id or name of the weights' licence")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [name for name in ("shipped", "hub", "url") if getattr(self, name) is not None]
        if len(origins) > 1 or not (origins or self.path):
            raise ValueError("give exactly one of shipped, hub and url, or a path alone")
        if self.hub and not self.revision:
            raise ValueError("hub needs a revision, so that the weights are the same tomorrow")
        if self.shipped and (PurePosixPath(self.shipped).is_absolute() or ".." in PurePosixPath(self.shipped).parts):
            raise ValueError("shipped is a name inside the package")
        return self


class MiniatureSource(Section):
    """Scenes drawn by the package itself, with the flaws that the web has."""

    kind: Literal["miniature"] = key(origin=OURS, about="scenes drawn by the package")
    seed: NotNegativeInt = key(20_000, origin=OURS, about="which scenes; the shipped models were trained on others")
    images: PositiveInt = key(2600, unit="images", origin=OURS, about="scenes in all, flawed ones among them")
    images_per_shard: PositiveInt = key(650, unit="images", origin=OURS, about="size of a shard")


class FolderSource(Section):
    """Your own images, with captions beside them or in one table."""

    kind: Literal["folder"] = key(origin=OURS, about="a folder of images with captions")
    root: str = key(origin=OURS, about="folder of the images, read recursively and never written to")
    captions: str | None = key(
        None,
        origin=OURS,
        about="a .csv or .parquet with columns `image` (path under root) and `caption`; null reads NAME.txt beside NAME.jpg, a caption a line",
    )
    seed: NotNegativeInt = key(0, origin=OURS, about="of the order of the samples")
    images_per_shard: PositiveInt = key(5000, unit="images", origin=OURS, about="size of a shard")


class CocoSource(Section):
    """COCO's own layout, or LVIS's: captions and boxes in JSON, images in a folder. All captions of an image are kept."""

    kind: Literal["coco"] = key(origin=OURS, about="COCO's captions and instances JSON with a folder of images")
    root: str = key(origin=OURS, about="folder that holds the three below, never written to")
    images: str = key("train2017", origin="COCO 2017", about="folder of images under root")
    captions: str | None = key(
        "annotations/captions_train2017.json",
        origin="COCO 2017",
        about="captions JSON under root; null, as for LVIS: images have none, and are those of `instances`",
    )
    instances: str | None = key(
        "annotations/instances_train2017.json",
        origin="COCO 2017",
        about="boxes JSON under root, for detect engine annotations; null has none",
    )
    seed: NotNegativeInt = key(0, origin=OURS, about="of the order of the samples")
    images_per_shard: PositiveInt = key(5000, unit="images", origin=OURS, about="size of a shard")

    @model_validator(mode="after")
    def _names_images(self) -> Self:
        if self.captions is None and self.instances is None:
            raise ValueError("captions and instances are both null, so that nothing names the images: give one of them")
        return self


class WebDatasetSource(Section):
    """Tars that are already there, read where they lie: img2dataset's output, cc3m-wds."""

    kind: Literal["webdataset"] = key(origin=OURS, about="tars of image and text members, read where they lie")
    root: str = key(origin=OURS, about="folder of the tars, never written to")
    pattern: str = key("*.tar", origin=OURS, about="which tars of root, a glob")
    seed: NotNegativeInt = key(0, origin=OURS, about="of the order of the shards")
    tars_per_shard: PositiveInt = key(
        1, unit="tars", origin=OURS, about="tars that make one shard, in the order of their names"
    )
    samples_per_tar: PositiveInt = key(
        5000, unit="samples", origin="cc3m-wds: 5,045 a tar", about="what a tar is expected to hold, for the plan only"
    )
    expected_tars: PositiveInt | None = key(
        None,
        unit="tars",
        origin=OURS,
        about="stop before the first job if there are not so many; null takes what is there",
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
    """The CC2.5M ladder. The paper says only that low-resolution images are left out; the figures are ours."""

    min_side_px: PositiveInt = key(200, unit="px", origin=OURS, about="least shorter side")
    max_aspect: float = key(
        3.0, origin="GranViT: 1/3 to 3", about="most that the longer side may be of the shorter", ge=1
    )
    min_words: NotNegativeInt = key(
        2, unit="words", origin=OURS, about="fewest words of a caption; 0 keeps images without any"
    )
    max_words: PositiveInt = key(200, unit="words", origin=OURS, about="most words of a caption")
    boilerplate: tuple[str, ...] = key(
        BOILERPLATE,
        origin=OURS,
        about="regular expressions; a caption that matches one as a whole, case apart, says nothing of its image",
    )

    @field_validator("boilerplate")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns


class YoloDetect(Section):
    """Boxes by an ultralytics model. Ultralytics is AGPL-3.0."""

    engine: Literal["yolo"] = key(origin=OURS, about="any model that ultralytics loads; YOLOv9 is the paper's")
    weights: WeightsConfig = key(
        origin=OURS, about="the detector's checkpoint; a pickle, opened only if its sha256 is given"
    )
    image_size: PositiveInt = key(
        640, unit="px", origin="YOLOv9", about="side of the square that images are letterboxed to; a multiple of 32"
    )
    confidence: Share = key(0.25, origin="ultralytics; the paper names none", about="least score of a box")
    iou: Share = key(
        0.5, origin=OURS, about="overlap at which the lower-scored box of two goes, whatever their classes"
    )
    max_regions: PositiveInt = key(
        20, unit="boxes", origin="FineCLIP scripts: 20", about="most boxes of an image, best first"
    )
    min_side_px: NotNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8", about="least shorter side of a box")

    @field_validator("image_size")
    @classmethod
    def _stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError(
                f"must be a multiple of 32, the coarsest stride; {value // 32 * 32 or 32} and {(value // 32 + 1) * 32} are"
            )
        return value


class AnnotationsDetect(Section):
    """The data set's own boxes."""

    engine: Literal["annotations"] = key(origin=OURS, about="the boxes that the source brought along")
    max_regions: PositiveInt = key(
        20, unit="boxes", origin="FineCLIP scripts: 20", about="most boxes of an image, largest first"
    )
    min_side_px: NotNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8", about="least shorter side of a box")


class BoxesJsonDetect(Section):
    """Boxes that somebody made and released, such as FineCLIP's coco_proposals.json, CLIPSelf's coco_pseudo_4764.json."""

    engine: Literal["boxes_json"] = key(origin=OURS, about="a JSON in the form of COCO's instances")
    path: str = key(origin=OURS, about="the JSON; its images are matched to samples by their file names")
    labels: bool = key(
        True,
        origin="CLIPSelf: coco_pseudo_4764.json",
        about="a region's label is the name of its category; false, as for coco_proposals.json, where categories say nothing",
    )
    score: str | None = key(
        "score", origin="COCO results", about="key of a box's score in [0, 1], 1 where it is not there; null reads none"
    )
    max_regions: PositiveInt | None = key(
        20,
        unit="boxes",
        origin="CLIPSelf: the first 20",
        about="most boxes of an image, in the order of the file; null: all",
    )
    min_side_px: NotNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8", about="least shorter side of a box")
    max_side_px: PositiveFloat | None = key(
        None, unit="px", origin=OURS, about="most longer side of a box; null sets no limit"
    )


DetectConfig = Annotated[YoloDetect | AnnotationsDetect | BoxesJsonDetect, Field(discriminator="engine")]


class Blip2Caption(Section):
    """A caption for each region by BLIP-2, from its crop."""

    engine: Literal["blip2"] = key(origin=OURS, about="Blip2ForConditionalGeneration on crops")
    weights: WeightsConfig = key(origin=OURS, about="folder or hub repository of the captioner with its processor")
    prompt: str = key("", origin="the paper names none", about="text before the caption; never echoed in it")
    max_new_tokens: PositiveInt = key(20, unit="tokens", origin=OURS, about="longest caption")
    num_beams: PositiveInt = key(1, origin=OURS, about="1 is greedy")
    context: float = key(
        1.0, origin="FineCLIP captions tight boxes", about="the crop is the box, so many times as wide and high", ge=1
    )
    square: bool = key(
        False, origin=OURS, about="widen the crop to a square first, so that the processor does not squash it"
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32", origin=OURS, about="of the captioner's weights and arithmetic"
    )


class TemplateCaption(Section):
    """A sentence around the region's class name."""

    engine: Literal["template"] = key(origin=OURS, about="a sentence around the region's label")
    template: str = key("a photo of a {label}", origin="CLIP", about="`{label}` stands for the class name")

    @field_validator("template")
    @classmethod
    def _has_label(cls, value: str) -> str:
        if "{label}" not in value or value.replace("{label}", "").count("{"):
            raise ValueError("must hold {label} and no other braces")
        return value


class CaptionsJsonCaption(Section):
    """Captions that somebody made and released for boxes of their own, such as FineCLIP's coco_captions.json."""

    engine: Literal["captions_json"] = key(origin=OURS, about="one flat JSON object of captions")
    path: str = key(
        origin=OURS, about="the JSON; keys are IMAGE_X_Y_WIDTH_HEIGHT.jpg, IMAGE with its own .jpg, whole pixels"
    )


CaptionConfig = Annotated[Blip2Caption | TemplateCaption | CaptionsJsonCaption, Field(discriminator="engine")]


class SelectConfig(Section):
    """What a scale leaves out."""

    leave_out: tuple[str, ...] = key(
        (), origin=OURS, about="benchmarks whose images must not be trained on, found by the hash of their bytes"
    )


VAGUE_NOUNS = (
    "area", "back", "background", "bit", "bottom", "bunch", "close", "closeup", "collection", "color", "couple",
    "day", "edge", "end", "foreground", "front", "group", "half", "image", "inside", "item", "kind",
    "lot", "middle", "number", "object", "other", "outside", "pair", "part", "photo", "photograph", "picture", "piece",
    "place", "position", "row", "scene", "set", "side", "something", "stuff", "style", "thing", "time", "top",
    "type", "use", "variety", "view", "way",
)  # fmt: skip


class ConceptsConfig(Section):
    """The concepts of a scale: the names that a method which needs some tells regions apart by."""

    from_: Literal["labels", "captions"] = key(
        "labels",
        alias="from",
        origin=OURS,
        about="labels of the regions, or nouns of the images' English captions, as RegionCLIP mines them",
    )
    min_count: PositiveInt | None = key(
        None,
        origin="RegionCLIP: 100",
        about="fewest regions of a label, or captions with a noun; null takes 1 for labels, 100 for captions",
    )
    max_concepts: PositiveInt | None = key(
        None, unit="concepts", origin=OURS, about="most of them, the most frequent first; null takes all"
    )
    leave_out: tuple[str, ...] = key(
        VAGUE_NOUNS, origin=OURS, about="nouns that no box can show, or any could; of captions only"
    )

    @property
    def least(self) -> int:
        """`min_count`, or what stands for null."""
        return self.min_count or {"labels": 1, "captions": 100}[self.from_]


class PackConfig(Section):
    """Training shards. Nothing to choose: they hold what the stages before made."""
