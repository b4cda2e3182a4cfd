"""Sections of the data stages: source, filter, select, detect, caption, concepts, pack."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, field_validator, model_validator

from fineclip.config.base import PositiveInt, Section, Sha256, Share, key


class WeightsConfig(Section):
    """Location of the weights of a model: exactly one of `shipped`, `hub` and `url`, or a local `path` alone.

    Attributes:
        shipped: File or folder inside the package (miniature models).
        path: Local file or folder. It is used if it exists, before `hub` or `url`.
        hub: Hugging Face repository id, OWNER/NAME. Needs `revision`.
        hub_file: One file of the hub repository; null: the whole repository.
        revision: Commit, tag or branch of the hub repository.
        url: Address of one file, http or https.
        sha256: SHA-256 of the file, 64 hex digits; for a folder, of its sorted lines `sha256  name`. null: recorded at
            the first download.
        size_mb: Download size, shown if the weights are missing.
        license: SPDX id or name of the license of the weights.
    """

    shipped: str | None = None
    path: str | None = None
    hub: str | None = None
    hub_file: str | None = None
    revision: str | None = None
    url: str | None = None
    sha256: Sha256 | None = None
    size_mb: PositiveFloat | None = key(None, unit="MB")
    license: str | None = None

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
    """Generated scenes, with the defects of web data (small images, duplicates, boilerplate captions).

    Attributes:
        kind: Scenes that the package draws.
        seed: Seed of the scenes. The shipped models were trained on other seeds.
        images: Number of scenes, including defective ones.
        images_per_shard: Images per shard.
    """

    kind: Literal["miniature"]
    seed: NonNegativeInt = 20_000
    images: PositiveInt = key(2600, unit="images")
    images_per_shard: PositiveInt = key(650, unit="images")


class FolderSource(Section):
    """A folder of images, with captions in text files or in one table.

    Attributes:
        kind: A folder of images with captions.
        root: Folder of the images, read recursively through links, never written to.
        captions: CSV, TSV or parquet file with the columns `image` (path under root) and `caption`. null: NAME.txt beside
            NAME.jpg, one caption per line.
        seed: Seed of the sample order.
        images_per_shard: Images per shard.
    """

    kind: Literal["folder"]
    root: str
    captions: str | None = None
    seed: NonNegativeInt = 0
    images_per_shard: PositiveInt = key(5000, unit="images")


class CocoSource(Section):
    """COCO or LVIS: captions and boxes in JSON files, images in a folder. All captions of an image are kept.

    Attributes:
        kind: JSON files of COCO with a folder of images.
        root: Folder of the three paths below, never written to.
        images: Folder of the images, under root.
        captions: Captions JSON, under root. null: images have no captions and are listed by `instances` (LVIS).
        instances: Boxes JSON, under root, for `engine: annotations`. null: no boxes.
        seed: Seed of the sample order.
        images_per_shard: Images per shard.
    """

    kind: Literal["coco"]
    root: str
    images: str = key("train2017", origin="COCO 2017")
    captions: str | None = key("annotations/captions_train2017.json", origin="COCO 2017")
    instances: str | None = key("annotations/instances_train2017.json", origin="COCO 2017")
    seed: NonNegativeInt = 0
    images_per_shard: PositiveInt = key(5000, unit="images")

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if self.captions is None and self.instances is None:
            raise ValueError("captions and instances are both null: give at least one, it lists the images")
        return self


class WebDatasetSource(Section):
    """Existing WebDataset tars, read in place: the output of img2dataset, cc3m-wds.

    Attributes:
        kind: Tars with image and text members, read in place.
        root: Folder of the tars, never written to.
        pattern: Glob pattern of the tars in root.
        seed: Seed of the shard order.
        tars_per_shard: Tars per shard, in the order of their names.
        samples_per_tar: Expected samples per tar; used only to plan the number of shards.
        expected_tars: Stop before the first job if the number of tars differs; null: use all tars that exist.
    """

    kind: Literal["webdataset"]
    root: str
    pattern: str = "*.tar"
    seed: NonNegativeInt = 0
    tars_per_shard: PositiveInt = key(1, unit="tars")
    samples_per_tar: PositiveInt = key(5000, unit="samples", origin="cc3m-wds: 5,045 a tar")
    expected_tars: PositiveInt | None = key(None, unit="tars")


SourceConfig = Annotated[MiniatureSource | FolderSource | CocoSource | WebDatasetSource, Field(discriminator="kind")]

BOILERPLATE = (
    r"click here.*",
    r"free download.*",
    r"(img|dsc|image|photo)[ _-]?\d+.*",
    r"(untitled|no caption|none|null|n/a)",
    r".*\bphoto album",
)


class FilterConfig(Section):
    """Rules that drop samples. The paper states only that low-resolution images are removed; the thresholds are our choice.

    Attributes:
        min_side_px: Minimum length of the shorter image side.
        max_aspect: Maximum ratio of the longer to the shorter image side.
        min_words: Minimum words of a caption; 0 also keeps images without captions. In scripts without spaces (Han, kana,
            Thai, Lao, Khmer, Burmese) each letter counts as a word.
        max_words: Maximum words of a caption.
        boilerplate: Regular expressions, case-insensitive. A caption that matches one completely is dropped.
    """

    min_side_px: PositiveInt = key(200, unit="px")
    max_aspect: float = key(3.0, origin="GranViT: 1/3 to 3", ge=1)
    min_words: NonNegativeInt = key(2, unit="words")
    max_words: PositiveInt = key(200, unit="words")
    boilerplate: tuple[str, ...] = BOILERPLATE

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
    """Boxes predicted by an ultralytics model. Ultralytics has the license AGPL-3.0.

    Attributes:
        engine: A model that ultralytics loads; the paper uses YOLOv9.
        weights: Checkpoint of the detector. It is a pickle file and is loaded only if `sha256` is given.
        image_size: Side of the letterboxed input square, a multiple of 32.
        confidence: Minimum score of a box.
        iou: IoU threshold of the class-agnostic non-maximum suppression.
        max_regions: Maximum boxes per image, highest scores first.
        min_side_px: Minimum length of the shorter side of a box.
    """

    engine: Literal["yolo"]
    weights: WeightsConfig
    image_size: PositiveInt = key(640, unit="px", origin="YOLOv9")
    confidence: Share = key(0.25, origin="ultralytics")
    iou: Share = 0.5
    max_regions: PositiveInt = key(20, unit="boxes", origin="FineCLIP scripts: 20")
    min_side_px: NonNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8")

    @field_validator("image_size")
    @classmethod
    def _check_stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError(
                f"must be a multiple of 32, the coarsest stride: take {value // 32 * 32 or 32} or {(value // 32 + 1) * 32}"
            )
        return value


class AnnotationsDetect(Section):
    """Boxes of the data set.

    Attributes:
        engine: The boxes of the source.
        max_regions: Maximum boxes per image, largest first.
        min_side_px: Minimum length of the shorter side of a box.
    """

    engine: Literal["annotations"]
    max_regions: PositiveInt = key(20, unit="boxes", origin="FineCLIP scripts: 20")
    min_side_px: NonNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8")


class BoxesJsonDetect(Section):
    """Released boxes, such as coco_proposals.json of FineCLIP and coco_pseudo_4764.json of CLIPSelf.

    Attributes:
        engine: A JSON file in the format of COCO instances.
        path: Path of the JSON file. Its images are matched to samples by file name.
        labels: Take category names as region labels; false if the categories are placeholders (coco_proposals.json).
        score: Key of the box score (0 to 1); a box without it has score 1. null: scores are not read.
        max_regions: Maximum boxes per image, in file order; null: all.
        min_side_px: Minimum length of the shorter side of a box.
        max_side_px: Maximum length of the longer side of a box; null: no limit.
    """

    engine: Literal["boxes_json"]
    path: str
    labels: bool = key(True, origin="CLIPSelf: coco_pseudo_4764.json")
    score: str | None = key("score", origin="COCO results")
    max_regions: PositiveInt | None = key(20, unit="boxes", origin="CLIPSelf: the first 20")
    min_side_px: NonNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8")
    max_side_px: PositiveFloat | None = key(None, unit="px")


class BoxesFilesDetect(Section):
    """Own boxes, or boxes of own masks, in the files of other tools.

    Attributes:
        engine: Files of boxes or masks that belong to images by name.
        format: `yolo`: a .txt per image; `voc`: a Pascal VOC .xml per image; `csv`: a table with the columns image, x1, y1, x2, y2
            and label; `masks`: a .png per image with a value per instance; `mask_folders`: a folder per image with a .png per
            instance.
        path: Folder of the files, read recursively, or the table.
        names: Class names of format yolo: a YAML with the key `names`, or a text with a name per line. null: data.yaml or classes.txt
            in `path` or in one of the two folders around it.
        labels: Take class names as region labels.
        max_regions: Maximum boxes per image, highest scores first, then in file order; null: all.
        min_side_px: Minimum length of the shorter side of a box.
        max_side_px: Maximum length of the longer side of a box; null: no limit.
    """

    engine: Literal["boxes_files"]
    format: Literal["yolo", "voc", "csv", "masks", "mask_folders"]
    path: str
    names: str | None = None
    labels: bool = True
    max_regions: PositiveInt | None = key(20, unit="boxes", origin="FineCLIP scripts: 20")
    min_side_px: NonNegativeFloat = key(8.0, unit="px", origin="FineCLIP: 8")
    max_side_px: PositiveFloat | None = key(None, unit="px")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.names is not None and self.format != "yolo":
            raise ValueError(f"names is used with format: yolo alone; format {self.format} has names of its own")
        return self


DetectConfig = Annotated[
    YoloDetect | AnnotationsDetect | BoxesJsonDetect | BoxesFilesDetect, Field(discriminator="engine")
]


class Blip2Caption(Section):
    """Captions that BLIP-2 generates from region crops.

    Attributes:
        engine: `Blip2ForConditionalGeneration` of transformers, on crops.
        weights: Folder or hub repository of the model and its processor.
        prompt: Prompt of the language model; not part of the caption.
        max_new_tokens: Maximum length of a caption.
        num_beams: Beams of the beam search; 1: greedy decoding.
        context: Factor by which width and height of the box are enlarged before cropping.
        square: Extend the crop to a square, so that the processor keeps its aspect ratio.
        precision: Data type of weights and computation.
    """

    engine: Literal["blip2"]
    weights: WeightsConfig
    prompt: str = ""
    max_new_tokens: PositiveInt = key(20, unit="tokens")
    num_beams: PositiveInt = 1
    context: float = key(1.0, origin="FineCLIP", ge=1)
    square: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class TemplateCaption(Section):
    """A fixed sentence with the label of the region.

    Attributes:
        engine: A sentence with the label of the region.
        template: The sentence; `{label}` is replaced by the label.
    """

    engine: Literal["template"]
    template: str = key("a photo of a {label}", origin="CLIP")

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: str) -> str:
        if "{label}" not in value or value.replace("{label}", "").count("{"):
            raise ValueError("must hold {label} and no other braces")
        return value


class CaptionsJsonCaption(Section):
    """Released captions of boxes, such as coco_captions.json of FineCLIP.

    Attributes:
        engine: A JSON object of captions.
        path: Path of the JSON file. Its keys are IMAGE_X_Y_WIDTH_HEIGHT.jpg: the file name of the image with its
            suffix, then whole pixels.
    """

    engine: Literal["captions_json"]
    path: str


CaptionConfig = Annotated[Blip2Caption | TemplateCaption | CaptionsJsonCaption, Field(discriminator="engine")]


class SelectConfig(Section):
    """Images that no scale contains.

    Attributes:
        exclude: Benchmarks whose images are removed from the training data, by the SHA-256 of the file.
    """

    exclude: tuple[str, ...] = ()


VAGUE_NOUNS = (
    "area", "back", "background", "bit", "bottom", "bunch", "close", "closeup", "collection", "color", "couple",
    "day", "edge", "end", "foreground", "front", "group", "half", "image", "inside", "item", "kind",
    "lot", "middle", "number", "object", "other", "outside", "pair", "part", "photo", "photograph", "picture", "piece",
    "place", "position", "row", "scene", "set", "side", "something", "stuff", "style", "thing", "time", "top",
    "type", "use", "variety", "view", "way",
)  # fmt: skip


class ConceptsConfig(Section):
    """Concept names of a scale, used by RegionCLIP to classify regions.

    Attributes:
        from_: `labels`: labels of the regions; `captions`: nouns of the English image captions, as in RegionCLIP.
        min_count: Minimum number of regions with a label, or of captions with a noun. null: 1 for labels, 100 for
            captions.
        max_concepts: Maximum number of concepts, most frequent first; null: all.
        exclude: Nouns that do not name a localizable object; used with `from: captions`.
    """

    from_: Literal["labels", "captions"] = key("labels", alias="from")
    min_count: PositiveInt | None = key(None, origin="RegionCLIP: 100")
    max_concepts: PositiveInt | None = key(None, unit="concepts")
    exclude: tuple[str, ...] = VAGUE_NOUNS

    @property
    def effective_min_count(self) -> int:
        """Return `min_count`, or its value for null."""
        return self.min_count or {"labels": 1, "captions": 100}[self.from_]


class PackConfig(Section):
    """Training shards. There are no options."""
