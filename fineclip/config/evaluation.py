"""Sections of the benchmarks: data sets (`layout`) and protocols (`kind`)."""

from typing import Annotated, Literal

from pydantic import Field

from fineclip.config.base import OURS, NotNegativeInt, PositiveInt, Section, key


class MiniatureTest(Section):
    """Test scenes of the miniature world, not used for training or model selection."""

    layout: Literal["miniature"] = key(origin=OURS, about="Scenes that the package draws.")
    seed: NotNegativeInt = key(30_000, origin=OURS, about="Seed of the scenes.")
    images: PositiveInt = key(600, unit="images", origin=OURS, about="Number of scenes.")


class CocoPanoptic(Section):
    """COCO panoptic: boxes of things and tight boxes of stuff segments, with masks."""

    layout: Literal["coco_panoptic"] = key(origin="COCO", about="Panoptic JSON and PNG files.")
    root: str = key(origin=OURS, about="Folder of the three paths below.")
    images: str = key("val2017", origin="COCO 2017", about="Folder of the images, under root.")
    annotations: str = key("annotations/panoptic_val2017.json", origin="COCO 2017", about="Panoptic JSON, under root.")
    masks: str = key(
        "annotations/panoptic_val2017", origin="COCO 2017", about="Folder of the panoptic PNG files, under root."
    )


class CocoCaptions(Section):
    """COCO captions, all captions of each image."""

    layout: Literal["coco_captions"] = key(origin="COCO", about="COCO captions JSON.")
    root: str = key(origin=OURS, about="Folder of the two paths below.")
    images: str = key("val2017", origin="COCO 2017", about="Folder of the images, under root.")
    annotations: str = key("annotations/captions_val2017.json", origin="COCO 2017", about="Captions JSON, under root.")


class CaptionList(Section):
    """A list of images with all their captions, the format of the retrieval evaluation of FineCLIP."""

    layout: Literal["caption_list"] = key(
        origin="FineCLIP, test_flickr.py", about='A JSON list of {"image": path, "caption": [texts]}.'
    )
    root: str = key(origin=OURS, about="Folder of the two paths below.")
    images: str = key(
        "flickr30k_images",
        origin="FineCLIP, test_flickr.py",
        about="Folder under root to which the image paths are relative.",
    )
    annotations: str = key("flickr30k_test.json", origin="FineCLIP, test_flickr.py", about="JSON list, under root.")


class Karpathy(Section):
    """A Karpathy split of Flickr30k or COCO, all captions of each image."""

    layout: Literal["karpathy"] = key(
        origin="Karpathy and Fei-Fei 2015", about="dataset_flickr30k.json or dataset_coco.json of Karpathy."
    )
    root: str = key(origin=OURS, about="Folder of the two paths below.")
    images: str = key(
        "flickr30k-images",
        origin="Flickr30k",
        about="Folder of the images, under root. For COCO, the folder that contains val2014, for example `.`.",
    )
    annotations: str = key("dataset_flickr30k.json", origin="Karpathy and Fei-Fei 2015", about="JSON file, under root.")
    split: Literal["train", "restval", "val", "test"] = key(
        "test", origin="Karpathy and Fei-Fei 2015", about="Split of the data set."
    )


IfMissing = Literal["skip", "error"]


class BoxesBenchmark(Section):
    """Box classification: the pooled dense feature of a box is compared with the class names."""

    kind: Literal["boxes"] = key(
        origin="FineCLIP, CLIPSelf", about="Top-1 and top-5 accuracy of boxes, averaged over classes."
    )
    source: Annotated[MiniatureTest | CocoPanoptic, Field(discriminator="layout")] = key(
        origin=OURS, about="Images, boxes and classes."
    )
    image_size: PositiveInt | None = key(
        None, unit="px", origin="FineCLIP", about="Side of the input square; null: `image_size` of the encoder."
    )
    prompts: Literal["photo", "vild"] = key(
        "photo", origin=OURS, about="`photo`: `a photo of a NAME`; `vild`: the mean over the 63 templates of ViLD."
    )
    candidates: Literal["all", "own_kind"] = key(
        "all",
        origin="CLIPSelf, FineCLIP",
        about="Classes among which a box is ranked: `all`, or only things for a thing and only stuff for stuff (`own_kind`).",
    )
    min_side_px: NotNegativeInt = key(
        8, unit="px", origin="CLIPSelf", about="Boxes with an area below the square of this length are ignored."
    )
    max_side_px: PositiveInt = key(
        1024, unit="px", origin="CLIPSelf", about="Boxes with an area above the square of this length are ignored."
    )
    if_missing: IfMissing = key(
        "skip",
        origin=OURS,
        about="Action if the data is missing: `skip` the benchmark with a warning, or stop with an `error`.",
    )


class RetrievalBenchmark(Section):
    """Image-to-text and text-to-image retrieval."""

    kind: Literal["retrieval"] = key(origin="Karpathy and Fei-Fei 2015", about="Recall at 1, 5 and 10.")
    source: Annotated[MiniatureTest | CocoCaptions | CaptionList | Karpathy, Field(discriminator="layout")] = key(
        origin=OURS, about="Images and captions."
    )
    image_size: PositiveInt | None = key(
        None, unit="px", origin="FineCLIP", about="Side of the input square; null: `image_size` of the encoder."
    )
    if_missing: IfMissing = key(
        "skip",
        origin=OURS,
        about="Action if the data is missing: `skip` the benchmark with a warning, or stop with an `error`.",
    )


BenchmarkConfig = Annotated[BoxesBenchmark | RetrievalBenchmark, Field(discriminator="kind")]
