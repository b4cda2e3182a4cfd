"""Sections of the training methods.

Defaults are the correct behavior. The settings of the authors' scripts are in `workflow/presets/papers`.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fineclip.config.base import OURS, NotNegativeFloat, PositiveFloat, PositiveInt, Section, Share, key
from fineclip.config.training import FINECLIP

CLIPSELF = "CLIPSelf scripts"
Side = Annotated[int, Field(ge=2)]


class MethodConfig(Section):
    """Keys of all methods.

    Attributes:
        needs_concepts: True if the method classifies regions by the concepts of its scale.
    """

    needs_concepts: ClassVar[bool] = False

    train_text: bool = key(False, origin="FineCLIP paper: frozen", about="Train the text tower; false: it is frozen.")
    unlocked_blocks: PositiveInt | None = key(
        None,
        unit="blocks",
        origin=OURS,
        about="Train only this many last blocks of the vision tower (all if it has fewer); stem, final norm and projection are frozen. null: train the whole tower.",
    )
    wise_ft_alpha: Share = key(
        1.0,
        origin=OURS,
        about="Weight of the trained model in the exported weights (WiSE-FT): `wise_ft_alpha * trained + (1 - wise_ft_alpha) * initial`.",
    )
    resize: Literal["squash", "letterbox"] = key(
        "squash",
        origin=OURS,
        about="Resize of images and crops to a square: `squash` (bilinear, aspect ratio not kept) or `letterbox` (bicubic, black padding).",
    )

    @property
    def min_batch_size(self) -> int:
        """Return the minimum global batch size of the method, in images."""
        return 1

    @property
    def uses_captions(self) -> bool:
        """Return True if captions of images or regions enter the loss."""
        return True

    @property
    def can_cache_texts(self) -> bool:
        """Return True if captions can be embedded before training: they enter the loss and the text tower is frozen."""
        return self.uses_captions and not self.train_text


class CLIPConfig(MethodConfig):
    """Image-text contrastive loss on whole images."""


class FineCLIPWeights(Section):
    """Weights of the loss terms of FineCLIP. A term of weight 0 is not computed."""

    global_: NotNegativeFloat = key(
        1.0, alias="global", origin="FineCLIP eq. 6", about="Weight of the contrastive loss of images and captions."
    )
    region: NotNegativeFloat = key(
        1.0, origin="FineCLIP eq. 6, gamma", about="Weight of the contrastive loss of regions and region captions."
    )
    distill: NotNegativeFloat = key(1.0, origin="FineCLIP eq. 6, lambda", about="Weight of the self-distillation loss.")


class FineCLIPRelaxed(Section):
    """Approximations that make a step cheaper and change the objective. Off by default."""

    detach_crops: bool = key(
        False,
        origin="FineCLIP code",
        about="Stop the gradient of the distillation at the crop features. A step takes 1/3 to 1/2 of the time.",
    )
    crop_size: PositiveInt | None = key(
        None,
        unit="px",
        origin=OURS,
        about="Side of the crops, a multiple of the patch size; null: `crop_size` of the encoder.",
    )
    max_regions: PositiveInt | None = key(
        None, unit="boxes", origin=OURS, about="Maximum regions per image; null: `train.max_regions`."
    )


class FineCLIPConfig(MethodConfig):
    """FineCLIP: global and regional contrastive losses and self-distillation."""

    crop_scale: float = key(
        1.5,
        origin=FINECLIP,
        about="Factor by which width and height of a box are enlarged for its crop, which is clipped to the image.",
        ge=1,
    )
    weights: FineCLIPWeights = key(FineCLIPWeights(), origin="FineCLIP eq. 6", about="Weights of the loss terms.")
    relaxed: FineCLIPRelaxed = key(FineCLIPRelaxed(), origin=OURS, about="Approximations that make a step cheaper.")

    @property
    def uses_captions(self) -> bool:
        """Return True unless distillation is the only loss term."""
        return bool(self.weights.global_ or self.weights.region)


class CLIPSelfConfig(MethodConfig):
    """CLIPSelf: dense features are distilled from the crop features of a frozen teacher, the initial encoder."""

    wise_ft_alpha: Share = key(
        0.7,
        origin="CLIPSelf scripts for B/16 (L/14: 0.95)",
        about="Weight of the trained model in the exported weights (WiSE-FT): `wise_ft_alpha * trained + (1 - wise_ft_alpha) * initial`. The initial weights preserve the global embedding, which no loss term does.",
    )
    resize: Literal["squash", "letterbox"] = key(
        "letterbox",
        origin="CLIPSelf code",
        about="Resize of images and crops to a square: `squash` (bilinear, aspect ratio not kept) or `letterbox` (bicubic, black padding).",
    )
    regions: Literal["proposals", "patches"] = key(
        "proposals",
        origin="CLIPSelf",
        about="`proposals`: regions of the data; `patches`: cells of a random regular grid, sampled in each epoch.",
    )
    max_split: PositiveInt = key(6, origin=CLIPSELF, about="Maximum rows and columns of the patch grid.")
    crop_scale: float = key(
        1.5,
        origin=CLIPSELF,
        about="Factor by which width and height of a proposal are enlarged for its crop, which is clipped to the image. Patches are not enlarged.",
        ge=1,
    )

    @property
    def uses_captions(self) -> bool:
        """Return False: regions are compared with crops only."""
        return False

    @model_validator(mode="after")
    def _check_train_text(self) -> Self:
        if self.train_text:
            raise ValueError("train_text: true, but no loss term trains the text tower: set it to false")
        return self


class RegionClipWeights(Section):
    """Weights of the loss terms of RegionCLIP with pseudo-labels. A term of weight 0 is not computed."""

    distill: NotNegativeFloat = key(1.0, origin="RegionCLIP code", about="Weight of the distillation from the teacher.")
    contrast: NotNegativeFloat = key(
        1.0, origin="RegionCLIP code", about="Weight of the contrastive loss of regions and concepts."
    )
    global_: NotNegativeFloat = key(
        1.0, alias="global", origin="RegionCLIP code", about="Weight of the contrastive loss of images and captions."
    )


class RegionCLIPConfig(MethodConfig):
    """RegionCLIP: regions are classified by concepts, given as labels or predicted by a frozen teacher (pseudo-labels)."""

    needs_concepts: ClassVar[bool] = True

    targets: Literal["labels", "pseudo"] = key(
        "labels",
        origin="CLIPSelf code: labels; RegionCLIP code: pseudo",
        about="Concept of a region: `labels`, its label; `pseudo`, the prediction of the frozen initial encoder.",
    )
    prompts: Literal["photo", "vild"] = key(
        "vild",
        origin="CLIPSelf tools: 63 templates",
        about="Text of a concept: `photo`, `a photo of a NAME`; `vild`, the mean over the 63 templates of ViLD.",
    )
    concepts_per_step: PositiveInt = key(
        100,
        unit="concepts",
        origin="CLIPSelf code",
        about="For `targets: labels`: concepts per step, those of its regions filled up with random others.",
    )
    temperature: PositiveFloat = key(
        0.01, origin="RegionCLIP code", about="For `targets: pseudo`: fixed temperature of all three loss terms."
    )
    min_confidence: Share = key(
        0.1,
        origin="RegionCLIP code",
        about="For `targets: pseudo`: regions whose concept has a lower teacher probability are ignored, unless this applies to all.",
    )
    weights: RegionClipWeights = key(
        RegionClipWeights(), origin="RegionCLIP code", about="For `targets: pseudo`: weights of the loss terms."
    )

    @property
    def uses_captions(self) -> bool:
        """Return True for pseudo-labels with a global loss term."""
        return self.targets == "pseudo" and self.weights.global_ > 0

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        weights = self.weights
        if self.targets == "pseudo" and not (weights.distill or weights.contrast or weights.global_):
            raise ValueError("weights: all are 0, no loss term is left. Raise one of them")
        if self.train_text and (self.targets == "labels" or not weights.global_):
            raise ValueError(
                "train_text: true, but no loss term trains the text tower, because concept embeddings are fixed:"
                " set it to false, or set targets: pseudo and weights.global above 0"
            )
        return self


class CLIMConfig(MethodConfig):
    """CLIM: mosaics of images; each tile is a region with the caption of its image."""

    resize: Literal["squash"] = key(
        "squash",
        origin="CLIM code",
        about="Resize of a mosaic tile: `squash`, bicubic without padding, is the only supported value.",
    )
    mosaics: tuple[Side, ...] = key(
        (2, 3, 4),
        origin="CLIM scripts",
        about="Tiles per side of each mosaic of a set. A batch is divided into as many sets as it fills; the remaining images stay single.",
        min_length=1,
    )
    mosaic_size: PositiveInt = key(
        1024, unit="px", origin="CLIM scripts", about="Side of the square mosaic, a multiple of the patch size."
    )
    crop_area: tuple[PositiveFloat, Share] = key(
        (0.9, 1.0),
        origin="CLIM scripts",
        about="Minimum and maximum area fraction of the random crop of an image; its aspect ratio is 3/4 to 4/3.",
    )

    @property
    def min_batch_size(self) -> int:
        """Return the number of images of one set of mosaics."""
        return sum(side * side for side in self.mosaics)

    @model_validator(mode="after")
    def _check_crop_area(self) -> Self:
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError(
                f"crop_area: the minimum, {self.crop_area[0]}, is more than the maximum, {self.crop_area[1]}"
            )
        return self


class MethodsConfig(Section):
    """One section per method."""

    clip: CLIPConfig = key(
        CLIPConfig(), origin="Radford et al. 2021", about="Contrastive training on whole images (CLIP)."
    )
    fineclip: FineCLIPConfig = key(FineCLIPConfig(), origin="Jing et al. 2024", about="FineCLIP.")
    regionclip: RegionCLIPConfig = key(RegionCLIPConfig(), origin="Zhong et al. 2022", about="RegionCLIP.")
    clipself: CLIPSelfConfig = key(CLIPSelfConfig(), origin="Wu et al. 2024", about="CLIPSelf.")
    clim: CLIMConfig = key(CLIMConfig(), origin="Wu et al. 2024", about="CLIM.")
