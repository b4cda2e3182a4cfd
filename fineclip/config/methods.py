"""Sections of the methods: what each objective compares and weighs.

Defaults are what we hold to be correct; the settings of an author's script stand in `workflow/presets/`.
"""

from typing import Literal

from fineclip.config.base import NotNegativeFloat, PositiveFloat, PositiveInt, Section, Share, key
from fineclip.config.data import OURS
from fineclip.config.training import FINECLIP

CLIPSELF = "CLIPSelf scripts"


class MethodConfig(Section):
    """What every method has: what is trained, what of it is published, and how images come on the encoder's square."""

    train_text: bool = key(False, origin="FineCLIP paper: frozen", about="train the text tower too")
    trained_blocks: PositiveInt | None = key(
        None,
        unit="blocks",
        origin=OURS,
        about="train only the last so many blocks of the vision tower, and neither its stem, final norm nor projection; null trains all of it",
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


class ClipConfig(MethodConfig):
    """Global contrast alone."""


class FineCLIPWeights(Section):
    """Weights of FineCLIP's terms. A term of weight 0 is not computed."""

    global_: NotNegativeFloat = key(
        1.0, alias="global", origin="FineCLIP eq. 6", about="of the global contrastive loss"
    )
    region: NotNegativeFloat = key(1.0, origin="FineCLIP eq. 6, gamma", about="of the regional contrastive loss")
    distill: NotNegativeFloat = key(1.0, origin="FineCLIP eq. 6, lambda", about="of the self-distillation loss")


class FineCLIPConfig(MethodConfig):
    """Global contrast, regional contrast, real-time self-distillation."""

    crop_gradient: bool = key(
        True,
        origin="FineCLIP code",
        about="let the gradient of the distillation into the crop branch; false detaches it",
    )
    crop_scale: PositiveFloat = key(
        1.5, origin=FINECLIP, about="the crop is the box, so many times as wide and high, clipped to the image", ge=1
    )
    weights: FineCLIPWeights = key(FineCLIPWeights(), origin="FineCLIP eq. 6", about="weights of the terms")


class ClipSelfConfig(MethodConfig):
    """Dense features drawn towards what a frozen copy says of the crops."""

    regions: Literal["proposals", "patches"] = key(
        "proposals", origin="CLIPSelf", about="regions of the data, or patches of a regular grid drawn at each visit"
    )
    max_split: PositiveInt = key(6, origin=CLIPSELF, about="most rows and columns of the grid of patches")
    crop_scale: PositiveFloat = key(
        1.5,
        origin=CLIPSELF,
        about="a proposal's crop is the box, so many times as wide and high, clipped to the image; patches are not enlarged",
        ge=1,
    )


class RegionClipConfig(MethodConfig):
    """Regions told apart by the concepts that they show."""


class ClimConfig(MethodConfig):
    """Mosaics of images, each tile a region with the caption of its image."""


class MethodsConfig(Section):
    """One section per method."""

    clip: ClipConfig = key(ClipConfig(), origin="Radford et al. 2021", about="image-text contrast on whole images")
    regionclip: RegionClipConfig = key(RegionClipConfig(), origin="Zhong et al. 2022", about="RegionCLIP")
    clipself: ClipSelfConfig = key(ClipSelfConfig(), origin="Wu et al. 2024", about="CLIPSelf")
    clim: ClimConfig = key(ClimConfig(), origin="Wu et al. 2024", about="CLIM")
    fineclip: FineCLIPConfig = key(FineCLIPConfig(), origin="Jing et al. 2024", about="FineCLIP")
