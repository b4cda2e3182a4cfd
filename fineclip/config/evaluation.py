"""Sections of the benchmarks: what is asked, of which images, how."""

from typing import Annotated, Literal

from pydantic import Field

from fineclip.config.base import OURS, NotNegativeInt, PositiveInt, Section, key


class MiniatureTest(Section):
    """Test scenes of the miniature world, which nothing was trained on or chosen by."""

    layout: Literal["miniature"] = key(origin=OURS, about="scenes drawn by the package")
    seed: NotNegativeInt = key(30_000, origin=OURS, about="which scenes")
    images: PositiveInt = key(600, unit="images", origin=OURS, about="how many")


class CocoPanoptic(Section):
    """COCO panoptic segments: boxes of things and tight boxes of stuff, with masks."""

    layout: Literal["coco_panoptic"] = key(origin="COCO", about="panoptic JSON and PNG folder")
    root: str = key(origin=OURS, about="folder that holds the three below")
    images: str = key("val2017", origin="COCO 2017", about="folder of images under root")
    annotations: str = key("annotations/panoptic_val2017.json", origin="COCO 2017", about="panoptic JSON under root")
    masks: str = key("annotations/panoptic_val2017", origin="COCO 2017", about="folder of panoptic PNG under root")


class CocoCaptions(Section):
    """COCO captions, all of each image."""

    layout: Literal["coco_captions"] = key(origin="COCO", about="captions JSON")
    root: str = key(origin=OURS, about="folder that holds the two below")
    images: str = key("val2017", origin="COCO 2017", about="folder of images under root")
    annotations: str = key("annotations/captions_val2017.json", origin="COCO 2017", about="captions JSON under root")


class CaptionList(Section):
    """A list of images with their captions, as the authors of FineCLIP evaluate retrieval on; all captions of each."""

    layout: Literal["caption_list"] = key(
        origin="FineCLIP, test_flickr.py", about='a JSON list of {"image": path, "caption": [texts]}'
    )
    root: str = key(origin=OURS, about="folder that holds the two below")
    images: str = key(
        "flickr30k_images", origin="FineCLIP, test_flickr.py", about="folder under root that the paths start from"
    )
    annotations: str = key("flickr30k_test.json", origin="FineCLIP, test_flickr.py", about="JSON list under root")


class Karpathy(Section):
    """A split of Karpathy's Flickr30k or COCO, all captions of each image."""

    layout: Literal["karpathy"] = key(
        origin="Karpathy and Fei-Fei 2015", about="dataset_flickr30k.json or dataset_coco.json"
    )
    root: str = key(origin=OURS, about="folder that holds the two below")
    images: str = key(
        "flickr30k-images",
        origin="Flickr30k",
        about="folder of images under root; of COCO the one that holds val2014, which may be `.`",
    )
    annotations: str = key("dataset_flickr30k.json", origin="Karpathy and Fei-Fei 2015", about="JSON under root")
    split: Literal["train", "restval", "val", "test"] = key(
        "test", origin="Karpathy and Fei-Fei 2015", about="which images"
    )


IfMissing = Literal["skip", "error"]


class BoxesBenchmark(Section):
    """Box classification: the dense feature of a box against the names of the classes."""

    kind: Literal["boxes"] = key(origin="FineCLIP, CLIPSelf", about="class-mean top-1 and top-5 over boxes")
    source: Annotated[MiniatureTest | CocoPanoptic, Field(discriminator="layout")] = key(
        origin=OURS, about="images, boxes and classes"
    )
    image_size: PositiveInt | None = key(
        None, unit="px", origin="FineCLIP: that of the training", about="side of the square; null takes the encoder's"
    )
    prompts: Literal["photo", "vild"] = key(
        "photo", origin=OURS, about="`a photo of a NAME`, or the mean of the 63 ViLD templates"
    )
    candidates: Literal["all", "own_kind"] = key(
        "all",
        origin="CLIPSelf, FineCLIP",
        about="what boxes of things or stuff are ranked among: all classes, or those of their own kind",
    )
    min_side_px: NotNegativeInt = key(
        8, unit="px", origin="CLIPSelf", about="boxes of less than its square are left out"
    )
    max_side_px: PositiveInt = key(
        1024, unit="px", origin="CLIPSelf", about="boxes of more than its square are left out"
    )
    if_missing: IfMissing = key(
        "skip", origin=OURS, about="what to do where the data is absent: leave it out of the run, or stop"
    )


class RetrievalBenchmark(Section):
    """Image-text retrieval, both ways."""

    kind: Literal["retrieval"] = key(origin="Karpathy and Fei-Fei 2015", about="recall at 1, 5 and 10")
    source: Annotated[MiniatureTest | CocoCaptions | CaptionList | Karpathy, Field(discriminator="layout")] = key(
        origin=OURS, about="images and captions"
    )
    image_size: PositiveInt | None = key(
        None, unit="px", origin="FineCLIP: that of the training", about="side of the square; null takes the encoder's"
    )
    if_missing: IfMissing = key(
        "skip", origin=OURS, about="what to do where the data is absent: leave it out of the run, or stop"
    )


BenchmarkConfig = Annotated[BoxesBenchmark | RetrievalBenchmark, Field(discriminator="kind")]
