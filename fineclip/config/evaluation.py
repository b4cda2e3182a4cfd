"""Sections of the benchmarks: data sets (`layout`) and protocols (`kind`)."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from fineclip.config.base import PositiveInt, Section, key


class MiniatureTest(Section):
    """Test scenes of the miniature world, not used for training or model selection.

    Attributes:
        layout: Scenes that the package draws.
        seed: Seed of the scenes.
        images: Number of scenes.
    """

    layout: Literal["miniature"]
    seed: NonNegativeInt = 30_000
    images: PositiveInt = key(600, unit="images")


class CocoPanoptic(Section):
    """COCO panoptic: boxes of things and tight boxes of stuff segments, with masks.

    Attributes:
        layout: Panoptic JSON and PNG files.
        root: Folder of the three paths below.
        images: Folder of the images, under root.
        annotations: Panoptic JSON, under root.
        masks: Folder of the panoptic PNG files, under root.
    """

    layout: Literal["coco_panoptic"]
    root: str
    images: str = key("val2017", origin="COCO 2017")
    annotations: str = key("annotations/panoptic_val2017.json", origin="COCO 2017")
    masks: str = key("annotations/panoptic_val2017", origin="COCO 2017")


class CocoInstances(Section):
    """Boxes of any JSON in the form of COCO's instances, such as an export of an annotation tool.

    Attributes:
        layout: Instances JSON. Categories are things unless they state `isthing: 0`; crowds are left out.
        root: Folder of the two paths below.
        images: Folder of the images, under root.
        annotations: Instances JSON, under root.
    """

    layout: Literal["coco_instances"]
    root: str
    images: str = key("val2017", origin="COCO 2017")
    annotations: str = key("annotations/instances_val2017.json", origin="COCO 2017")


class CocoCaptions(Section):
    """COCO captions, all captions of each image.

    Attributes:
        layout: COCO captions JSON.
        root: Folder of the two paths below.
        images: Folder of the images, under root.
        annotations: Captions JSON, under root.
    """

    layout: Literal["coco_captions"]
    root: str
    images: str = key("val2017", origin="COCO 2017")
    annotations: str = key("annotations/captions_val2017.json", origin="COCO 2017")


class CaptionList(Section):
    """A list of images with all their captions, the format of the retrieval evaluation of FineCLIP.

    Attributes:
        layout: A JSON list of {"image": path, "caption": [texts]}.
        root: Folder of the two paths below.
        images: Folder under root to which the image paths are relative.
        annotations: JSON list, under root.
    """

    layout: Literal["caption_list"]
    root: str
    images: str = key("flickr30k_images", origin="FineCLIP, test_flickr.py")
    annotations: str = key("flickr30k_test.json", origin="FineCLIP, test_flickr.py")


class Karpathy(Section):
    """A Karpathy split of Flickr30k or COCO, all captions of each image.

    Attributes:
        layout: dataset_flickr30k.json or dataset_coco.json of Karpathy.
        root: Folder of the two paths below.
        images: Folder of the images, under root. For COCO, the folder that contains val2014, for example `.`.
        annotations: JSON file, under root.
        split: Split of the data set.
    """

    layout: Literal["karpathy"]
    root: str
    images: str = key("flickr30k-images", origin="Flickr30k")
    annotations: str = key("dataset_flickr30k.json", origin="Karpathy and Fei-Fei 2015")
    split: Literal["train", "restval", "val", "test"] = key("test", origin="Karpathy and Fei-Fei 2015")


IfMissing = Literal["skip", "error"]


class BoxesBenchmark(Section):
    """Box classification: the pooled dense feature of a box is compared with the class names.

    Attributes:
        kind: Top-1 and top-5 accuracy of boxes, averaged over classes.
        source: Images, boxes and classes.
        image_size: Side of the input square; null: `image_size` of the encoder.
        prompts: `photo`: `a photo of a NAME`; `vild`: the mean over the 63 templates of ViLD.
        candidates: Classes among which a box is ranked: `all`, or only things for a thing and only stuff for stuff
            (`own_kind`).
        min_side_px: Boxes with an area below the square of this length are ignored.
        max_side_px: Boxes with an area above the square of this length are ignored.
        if_missing: Action if the data is missing: `skip` the benchmark with a warning, or stop with an `error`.
    """

    kind: Literal["boxes"]
    source: Annotated[MiniatureTest | CocoPanoptic | CocoInstances, Field(discriminator="layout")]
    image_size: PositiveInt | None = key(None, unit="px", origin="FineCLIP")
    prompts: Literal["photo", "vild"] = "photo"
    candidates: Literal["all", "own_kind"] = key("all", origin="CLIPSelf, FineCLIP")
    min_side_px: NonNegativeInt = key(8, unit="px", origin="CLIPSelf")
    max_side_px: PositiveInt = key(1024, unit="px", origin="CLIPSelf")
    if_missing: IfMissing = "skip"


class RetrievalBenchmark(Section):
    """Image-to-text and text-to-image retrieval.

    Attributes:
        kind: Recall at 1, 5 and 10.
        source: Images and captions.
        image_size: Side of the input square; null: `image_size` of the encoder.
        if_missing: Action if the data is missing: `skip` the benchmark with a warning, or stop with an `error`.
    """

    kind: Literal["retrieval"]
    source: Annotated[MiniatureTest | CocoCaptions | CaptionList | Karpathy, Field(discriminator="layout")]
    image_size: PositiveInt | None = key(None, unit="px", origin="FineCLIP")
    if_missing: IfMissing = "skip"


BenchmarkConfig = Annotated[BoxesBenchmark | RetrievalBenchmark, Field(discriminator="kind")]
