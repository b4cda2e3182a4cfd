"""Sections of the methods: what each objective compares and weighs.

Defaults are what we hold to be correct; the settings of an author's script stand in `workflow/presets/`.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fineclip.config.base import OURS, NotNegativeFloat, PositiveFloat, PositiveInt, Section, Share, key
from fineclip.config.training import FINECLIP

CLIPSELF = "CLIPSelf scripts"
Side = Annotated[int, Field(ge=2)]


class MethodConfig(Section):
    """What every method has: what is trained, what of it is published, and how images come on the encoder's square.

    Attributes:
        needs_concepts: whether the method tells regions apart by the concepts of its scale.
    """

    needs_concepts: ClassVar[bool] = False

    train_text: bool = key(False, origin="FineCLIP paper: frozen", about="train the text tower too")
    trained_blocks: PositiveInt | None = key(
        None,
        unit="blocks",
        origin=OURS,
        about="train only the last so many blocks of the vision tower (all, where it has fewer), and neither its stem, final norm nor projection; null trains all of it",
    )
    alpha: Share = key(
        1.0,
        origin=OURS,
        about="what is published is so much of the trained weights and the rest of the initial ones; 1 is the trained ones as they are",
    )
    resize: Literal["squash", "letterbox"] = key(
        "squash",
        origin=OURS,
        about="how images and crops come on the square: squash (bilinear, aspect not kept) or letterbox (bicubic, black beside it)",
    )

    @property
    def least_images(self) -> int:
        """Fewest images of a step, over all processes, that the method can learn from."""
        return 1

    @property
    def compares_captions(self) -> bool:
        """Whether captions of images or regions take part in the objective."""
        return True

    @property
    def takes_embedded_texts(self) -> bool:
        """Whether captions may be embedded beforehand: they take part, and what embeds them stays as it is."""
        return self.compares_captions and not self.train_text


class ClipConfig(MethodConfig):
    """Global contrast alone."""


class FineCLIPWeights(Section):
    """Weights of FineCLIP's terms. A term of weight 0 is not computed."""

    global_: NotNegativeFloat = key(
        1.0, alias="global", origin="FineCLIP eq. 6", about="of the global contrastive loss"
    )
    region: NotNegativeFloat = key(1.0, origin="FineCLIP eq. 6, gamma", about="of the regional contrastive loss")
    distill: NotNegativeFloat = key(1.0, origin="FineCLIP eq. 6, lambda", about="of the self-distillation loss")


class FineCLIPRelaxed(Section):
    """What makes a step cheaper and is another objective: off by default."""

    detach_crops: bool = key(
        False,
        origin="FineCLIP code: attached",
        about="no gradient of the distillation into the crop branch; a step takes a half to a third",
    )
    crop_size: PositiveInt | None = key(
        None, unit="px", origin=OURS, about="smaller crops, whole patches; null takes the encoder's crop_size"
    )
    max_regions: PositiveInt | None = key(
        None, unit="boxes", origin=OURS, about="fewer regions of an image; null takes train.max_regions"
    )


class FineCLIPConfig(MethodConfig):
    """Global contrast, regional contrast, real-time self-distillation."""

    crop_scale: float = key(
        1.5, origin=FINECLIP, about="the crop is the box, so many times as wide and high, clipped to the image", ge=1
    )
    weights: FineCLIPWeights = key(FineCLIPWeights(), origin="FineCLIP eq. 6", about="weights of the terms")
    relaxed: FineCLIPRelaxed = key(FineCLIPRelaxed(), origin=OURS, about="cheaper steps of another objective")

    @property
    def compares_captions(self) -> bool:
        """The distillation alone does not."""
        return bool(self.weights.global_ or self.weights.region)


class ClipSelfConfig(MethodConfig):
    """Dense features drawn towards what a frozen copy says of the crops."""

    alpha: Share = key(
        0.7,
        origin="CLIPSelf scripts, B/16; with L/14 it is 0.95",
        about="what is published is so much of the trained weights and the rest of the initial ones, which hold the global embedding: no term of the loss does",
    )
    resize: Literal["squash", "letterbox"] = key(
        "letterbox",
        origin="CLIPSelf code",
        about="how images and crops come on the square: squash (bilinear, aspect not kept) or letterbox (bicubic, black beside it)",
    )
    regions: Literal["proposals", "patches"] = key(
        "proposals", origin="CLIPSelf", about="regions of the data, or patches of a regular grid drawn at each visit"
    )
    max_split: PositiveInt = key(6, origin=CLIPSELF, about="most rows and columns of the grid of patches")
    crop_scale: float = key(
        1.5,
        origin=CLIPSELF,
        about="a proposal's crop is the box, so many times as wide and high, clipped to the image; patches are not enlarged",
        ge=1,
    )

    @property
    def compares_captions(self) -> bool:
        """Regions with crops alone."""
        return False

    @model_validator(mode="after")
    def _no_text_learns(self) -> Self:
        if self.train_text:
            raise ValueError(
                "train_text: true, but no text is compared that could teach the text tower: set it to false"
            )
        return self


class RegionClipWeights(Section):
    """Weights of RegionCLIP's terms, with pseudo-labels. A term of weight 0 is not computed."""

    distill: NotNegativeFloat = key(1.0, origin="RegionCLIP code", about="of the distillation from the teacher")
    contrast: NotNegativeFloat = key(
        1.0, origin="RegionCLIP code", about="of the contrast of regions and their concepts"
    )
    global_: NotNegativeFloat = key(
        1.0, alias="global", origin="RegionCLIP code", about="of the contrast of images and captions"
    )


class RegionClipConfig(MethodConfig):
    """Regions told apart by the concepts that they show: those of their labels, or those that a frozen copy finds in them."""

    needs_concepts: ClassVar[bool] = True

    targets: Literal["labels", "pseudo"] = key(
        "labels",
        origin="CLIPSelf code: labels; RegionCLIP code: pseudo",
        about="a region's concept is its label, or what the frozen initial encoder takes it for",
    )
    prompts: Literal["photo", "vild"] = key(
        "vild",
        origin="CLIPSelf tools: 63 templates",
        about="text of a concept: `a photo of a NAME`, or the mean of the 63 ViLD templates",
    )
    concepts_per_step: PositiveInt = key(
        100,
        unit="concepts",
        origin="CLIPSelf code",
        about="labels: a step tells apart those that it shows and, up to so many in all, others at random",
    )
    temperature: PositiveFloat = key(0.01, origin="RegionCLIP code", about="pseudo: of all three terms, fixed")
    min_confidence: Share = key(
        0.1,
        origin="RegionCLIP code",
        about="pseudo: regions whose concept the teacher gives a smaller probability are left out, unless all are",
    )
    weights: RegionClipWeights = key(
        RegionClipWeights(), origin="RegionCLIP code: 1 each", about="pseudo: weights of the terms"
    )

    @property
    def compares_captions(self) -> bool:
        """With pseudo-labels; labels are names of concepts."""
        return self.targets == "pseudo" and self.weights.global_ > 0

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        weights = self.weights
        if self.targets == "pseudo" and not (weights.distill or weights.contrast or weights.global_):
            raise ValueError("weights: all are 0, so there is nothing to learn. Raise one of them")
        if self.train_text and (self.targets == "labels" or not weights.global_):
            raise ValueError(
                "train_text: true, but concepts keep the embeddings they start with, and nothing else would teach the text"
                " tower: set it to false, or take targets: pseudo with weights.global above 0"
            )
        return self


class ClimConfig(MethodConfig):
    """Mosaics of images, each tile a region with the caption of its image."""

    resize: Literal["squash"] = key(
        "squash",
        origin="CLIM code",
        about="how what is cut out of an image comes on its square: bicubic here; no other way is known, because a tile has no black beside it",
    )
    mosaics: tuple[Side, ...] = key(
        (2, 3, 4),
        origin="CLIM scripts",
        about="tiles along the side of each mosaic of a set; a step has as many sets as its images fill, the images that are left stay single",
        min_length=1,
    )
    mosaic_size: PositiveInt = key(
        1024, unit="px", origin="CLIM scripts", about="side of the square that a mosaic is resized to, whole patches"
    )
    crop_area: tuple[PositiveFloat, Share] = key(
        (0.9, 1.0),
        origin="CLIM scripts",
        about="least and largest share of an image that is cut out of it at random, its width 3/4 to 4/3 of its height",
    )

    @property
    def least_images(self) -> int:
        """Those of a set of mosaics."""
        return sum(side * side for side in self.mosaics)

    @model_validator(mode="after")
    def _area_is_a_range(self) -> Self:
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError(
                f"crop_area: the least, {self.crop_area[0]}, is more than the largest, {self.crop_area[1]}"
            )
        return self


class MethodsConfig(Section):
    """One section per method."""

    clip: ClipConfig = key(ClipConfig(), origin="Radford et al. 2021", about="image-text contrast on whole images")
    fineclip: FineCLIPConfig = key(FineCLIPConfig(), origin="Jing et al. 2024", about="FineCLIP")
    regionclip: RegionClipConfig = key(RegionClipConfig(), origin="Zhong et al. 2022", about="RegionCLIP")
    clipself: ClipSelfConfig = key(ClipSelfConfig(), origin="Wu et al. 2024", about="CLIPSelf")
    clim: ClimConfig = key(ClimConfig(), origin="Wu et al. 2024", about="CLIM")
