"""Sections of the training methods.

Defaults are the correct behavior. The settings of the authors' scripts are in `workflow/presets/papers`.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from fineclip.config.base import PositiveInt, Section, Share, key
from fineclip.config.training import FINECLIP

CLIPSELF = "CLIPSelf scripts"
Side = Annotated[int, Field(ge=2)]


class MethodConfig(Section):
    """Keys of all methods.

    Attributes:
        needs_concepts: True if the method classifies regions by the concepts of its scale.
        train_text: Train the text tower; false: it is frozen.
        unlocked_blocks: Train only this many last blocks of the vision tower (all if it has fewer); stem, final norm
            and projection are frozen. null: train the whole tower.
        wise_ft_alpha: Weight of the trained model in the exported weights (WiSE-FT): `wise_ft_alpha * trained + (1 -
            wise_ft_alpha) * initial`.
        resize: Resize of images and crops to a square: `squash` (bilinear, aspect ratio not kept) or `letterbox`
            (bicubic, black padding).
    """

    needs_concepts: ClassVar[bool] = False
    min_batch_reason: ClassVar[str] = "an image is compared with the other images of its step"

    train_text: bool = key(False, origin="FineCLIP paper: frozen")
    unlocked_blocks: PositiveInt | None = key(None, unit="blocks")
    wise_ft_alpha: Share = 1.0
    resize: Literal["squash", "letterbox"] = "squash"

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

    @property
    def min_batch_size(self) -> int:
        """Return 2: the loss of a single pair is always 0."""
        return 2


class FineCLIPWeights(Section):
    """Weights of the loss terms of FineCLIP. A term of weight 0 is not computed.

    Attributes:
        global_: Weight of the contrastive loss of images and captions.
        region: Weight of the contrastive loss of regions and region captions.
        distill: Weight of the self-distillation loss.
    """

    global_: NonNegativeFloat = key(1.0, alias="global", origin="FineCLIP eq. 6")
    region: NonNegativeFloat = key(1.0, origin="FineCLIP eq. 6, gamma")
    distill: NonNegativeFloat = key(1.0, origin="FineCLIP eq. 6, lambda")


class FineCLIPRelaxed(Section):
    """Approximations that make a step cheaper and change the objective. Off by default.

    Attributes:
        detach_crops: Stop the gradient of the distillation at the crop features. A step takes 1/3 to 1/2 of the time.
        crop_size: Side of the crops, a multiple of the patch size; null: `crop_size` of the encoder.
        max_regions: Maximum regions per image; null: `train.max_regions`.
    """

    detach_crops: bool = key(False, origin="FineCLIP code")
    crop_size: PositiveInt | None = key(None, unit="px")
    max_regions: PositiveInt | None = key(None, unit="boxes")


class FineCLIPConfig(MethodConfig):
    """FineCLIP: global and regional contrastive losses and self-distillation.

    Attributes:
        crop_scale: Factor by which width and height of a box are enlarged for its crop, which is clipped to the image.
        weights: Weights of the loss terms.
        relaxed: Approximations that make a step cheaper.
    """

    crop_scale: float = key(1.5, origin=FINECLIP, ge=1)
    weights: FineCLIPWeights = key(FineCLIPWeights(), origin="FineCLIP eq. 6")
    relaxed: FineCLIPRelaxed = FineCLIPRelaxed()

    @property
    def uses_captions(self) -> bool:
        """Return True unless distillation is the only loss term."""
        return bool(self.weights.global_ or self.weights.region)

    @property
    def min_batch_size(self) -> int:
        """Return 2 if images are contrasted; the regions of one image can be contrasted with each other."""
        return 2 if self.weights.global_ else 1


class CLIPSelfConfig(MethodConfig):
    """CLIPSelf: dense features are distilled from the crop features of a frozen teacher, the initial encoder.

    Attributes:
        wise_ft_alpha: Weight of the trained model in the exported weights (WiSE-FT): `wise_ft_alpha * trained + (1 -
            wise_ft_alpha) * initial`. The initial weights preserve the global embedding, which no loss term does.
        resize: Resize of images and crops to a square: `squash` (bilinear, aspect ratio not kept) or `letterbox`
            (bicubic, black padding).
        regions: `proposals`: regions of the data; `patches`: cells of a random regular grid, sampled in each epoch.
        max_split: Maximum rows and columns of the patch grid.
        crop_scale: Factor by which width and height of a proposal are enlarged for its crop, which is clipped to the
            image. Patches are not enlarged.
    """

    wise_ft_alpha: Share = key(0.7, origin="CLIPSelf scripts for B/16 (L/14: 0.95)")
    resize: Literal["squash", "letterbox"] = key("letterbox", origin="CLIPSelf code")
    regions: Literal["proposals", "patches"] = key("proposals", origin="CLIPSelf")
    max_split: PositiveInt = key(6, origin=CLIPSELF)
    crop_scale: float = key(1.5, origin=CLIPSELF, ge=1)

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
    """Weights of the loss terms of RegionCLIP with pseudo-labels. A term of weight 0 is not computed.

    Attributes:
        distill: Weight of the distillation from the teacher.
        contrast: Weight of the contrastive loss of regions and concepts.
        global_: Weight of the contrastive loss of images and captions.
    """

    distill: NonNegativeFloat = key(1.0, origin="RegionCLIP code")
    contrast: NonNegativeFloat = key(1.0, origin="RegionCLIP code")
    global_: NonNegativeFloat = key(1.0, alias="global", origin="RegionCLIP code")


class RegionCLIPConfig(MethodConfig):
    """RegionCLIP: regions are classified by concepts, given as labels or predicted by a frozen teacher (pseudo-labels).

    Attributes:
        targets: Concept of a region: `labels`, its label; `pseudo`, the prediction of the frozen initial encoder.
        prompts: Text of a concept: `photo`, `a photo of a NAME`; `vild`, the mean over the 63 templates of ViLD.
        concepts_per_step: For `targets: labels`: concepts per step, those of its regions filled up with random others.
        temperature: For `targets: pseudo`: fixed temperature of all three loss terms.
        min_confidence: For `targets: pseudo`: regions whose concept has a lower teacher probability are ignored, unless
            this applies to all.
        weights: For `targets: pseudo`: weights of the loss terms.
    """

    needs_concepts: ClassVar[bool] = True

    targets: Literal["labels", "pseudo"] = key("labels", origin="CLIPSelf code: labels; RegionCLIP code: pseudo")
    prompts: Literal["photo", "vild"] = key("vild", origin="CLIPSelf tools: 63 templates")
    concepts_per_step: PositiveInt = key(100, unit="concepts", origin="CLIPSelf code")
    temperature: PositiveFloat = key(0.01, origin="RegionCLIP code")
    min_confidence: Share = key(0.1, origin="RegionCLIP code")
    weights: RegionClipWeights = key(RegionClipWeights(), origin="RegionCLIP code")

    @property
    def uses_captions(self) -> bool:
        """Return True for pseudo-labels with a global loss term."""
        return self.targets == "pseudo" and self.weights.global_ > 0

    @property
    def min_batch_size(self) -> int:
        """Return 2 if images are contrasted with captions."""
        return 2 if self.uses_captions else 1

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
    """CLIM: mosaics of images; each tile is a region with the caption of its image.

    Attributes:
        resize: Resize of a mosaic tile: `squash`, bicubic without padding, is the only supported value.
        mosaics: Tiles per side of each mosaic of a set. A batch is divided into as many sets as it fills; the remaining
            images stay single.
        mosaic_size: Side of the square mosaic, a multiple of the patch size.
        crop_area: Minimum and maximum area fraction of the random crop of an image; its aspect ratio is 3/4 to 4/3.
    """

    min_batch_reason: ClassVar[str] = (
        "they are one set of mosaics; fewer or smaller mosaics in methods.clim.mosaics need fewer"
    )

    resize: Literal["squash"] = key("squash", origin="CLIM code")
    mosaics: tuple[Side, ...] = key((2, 3, 4), origin="CLIM scripts", min_length=1)
    mosaic_size: PositiveInt = key(1024, unit="px", origin="CLIM scripts")
    crop_area: tuple[PositiveFloat, Share] = key((0.9, 1.0), origin="CLIM scripts")

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
    """One section per method.

    Attributes:
        clip: Contrastive training on whole images (CLIP).
        fineclip: FineCLIP.
        regionclip: RegionCLIP.
        clipself: CLIPSelf.
        clim: CLIM.
    """

    clip: CLIPConfig = key(CLIPConfig(), origin="Radford et al. 2021")
    fineclip: FineCLIPConfig = key(FineCLIPConfig(), origin="Jing et al. 2024")
    regionclip: RegionCLIPConfig = key(RegionCLIPConfig(), origin="Zhong et al. 2022")
    clipself: CLIPSelfConfig = key(CLIPSelfConfig(), origin="Wu et al. 2024")
    clim: CLIMConfig = key(CLIMConfig(), origin="Wu et al. 2024")
