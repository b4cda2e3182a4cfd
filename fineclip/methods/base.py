"""Base class of training methods: an encoder, the features it computes for a batch, and the losses on them.

A method does not depend on micro-batches, ranks or optimizers: `train/grad_cache.py` calls its parts, and `losses/` does
the communication.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from fineclip.config import MethodConfig
from fineclip.losses.contrastive import first_row
from fineclip.methods.transforms import DataSpec, MethodTransform, Transform
from fineclip.models.encoder import RegionEncoder
from fineclip.models.flops import VisionPath
from fineclip.types import Batch, Counts, Losses

Features = TypeVar("Features")
MAX_LOGIT_SCALE = math.log(100)
NO_WEIGHT_DECAY = ("bn", "ln", "bias", "logit_scale")


class ParameterGroup(NamedTuple):
    """Parameters with the same optimizer settings."""

    parameters: list[nn.Parameter]
    decays: bool


class EncoderCall(NamedTuple):
    """One use of an encoder in a step, from which memory and FLOPs are estimated.

    Attributes:
        rows: Field of the batch that is encoded.
        px: Side of the square input; 0 for texts.
        path: Outputs that are computed: `global`, `dense`, or both (`shared`). Texts have no other.
        gradient: Whether activations are kept for a backward pass.
        images: Images of the batch on one input: the tiles of a mosaic.
    """

    rows: Literal["images", "crops", "texts", "region_texts"]
    px: int = 0
    path: VisionPath = "global"
    gradient: bool = True
    images: int = 1


class Method(nn.Module, ABC, Generic[Features]):
    """A training objective on a `RegionEncoder`.

    The text tower is frozen unless `config.train_text`. The whole vision tower is trained, or its last
    `config.unlocked_blocks` blocks.

    Args:
        encoder: Initial weights; changed by training.
        config: Section of the method.

    Attributes:
        encoder: The model that is trained.
        config: Section of the method.
        teacher: Frozen copy of the initial encoder if the method needs one or exports a mixture; else None.
        uses_in_batch_negatives: Whether the loss of a row depends on other rows. If not, `batch_loss` has no terms.
        crops: `unused`: no `region_loss`; `frozen`: it has no gradient through the crops; `trained`: it has.
        region_weight: Weight of `region_loss` in the total. It is applied after the backward pass of micro-batches of crops.
        path: Outputs of the vision tower that the losses need.
    """

    version: ClassVar[int]
    config_type: ClassVar[type[MethodConfig]]
    transform_type: ClassVar[type[MethodTransform]]
    needs_teacher: ClassVar[bool] = False
    uses_in_batch_negatives: bool = True
    crops: Literal["unused", "frozen", "trained"] = "unused"
    region_weight: float = 1.0
    path: VisionPath = "global"

    def __init__(self, encoder: RegionEncoder, config: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.teacher = frozen_copy(encoder) if self.needs_teacher or config.wise_ft_alpha < 1 else None
        freeze(encoder, config)
        self.train()

    @classmethod
    def build(cls, encoder: RegionEncoder, config: Any, data_spec: DataSpec) -> Self:  # noqa: ARG003
        """Return the method on an encoder.

        Args:
            encoder: Initial weights.
            config: Section of the method.
            data_spec: For methods that embed concepts beforehand.

        Returns:
            Method with the encoder, which is changed by training.
        """
        return cls(encoder, config)

    @classmethod
    def build_transform(cls, data_spec: DataSpec, config: Any, *, max_regions: int) -> Transform:
        """Return a picklable, pure function (sample, rng) -> example. It runs in workers of the loader, without weights.

        Args:
            data_spec: Sizes, tokenizer and concepts.
            config: Section of the method.
            max_regions: Regions per image, at most.

        Returns:
            `transform_type`; equal arguments give equal examples.
        """
        return cls.transform_type(data_spec, config, max_regions)

    @abstractmethod
    def encode(self, batch: Batch) -> Features:
        """Encode images, regions and texts of this rank, without communication.

        Args:
            batch: Rows of this rank.

        Returns:
            A NamedTuple. Tensor fields have one row per image or region; `region` is the input of `region_loss`.
        """

    def encode_vision(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Encode images and regions in one pass of the trunk, as far as `path` names them.

        Args:
            batch: Rows of this rank.

        Returns:
            (B, D) embeddings of images and (R, D) dense features of regions; None for what is not part of `path`.
        """
        if self.path == "global":
            return self.encoder.encode_image(require(batch.images)), None
        if self.path == "dense":
            return None, encode_regions(self.encoder, batch)
        boxes_R4, box_to_image_R = require(batch.boxes), require(batch.box_to_image)
        return self.encoder.encode_image_and_regions(require(batch.images), boxes_R4, box_to_image_R)

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Encode the crops of regions for `region_loss`.

        Args:
            crops: (R, 3, h, w).

        Returns:
            (R, D) embeddings, not normalized.
        """
        encoder = cast("RegionEncoder", self.teacher) if self.needs_teacher else self.encoder
        with nullcontext() if self.crops == "trained" else torch.no_grad():
            return encoder.encode_image(crops)

    @abstractmethod
    def batch_loss(self, features: Features, counts: Counts) -> Losses:
        """Compute the terms with in-batch negatives. All communication happens here. Float32 under autocast."""

    def region_loss(self, region_RD: Tensor, crop_RD: Tensor, counts: Sequence[int]) -> Losses:  # noqa: ARG002
        """Compute the terms of single regions; none by default.

        Args:
            region_RD: Dense features of regions.
            crop_RD: Their rows of `encode_crops`.
            counts: Regions of each rank in rank order.

        Returns:
            Losses of this rank without `region_weight`, scaled as `losses/contrastive.py` describes.
        """
        return Losses.weighted({}, weights={})

    def image_groups(self, images: int) -> list[int]:
        """Return sizes of the groups of consecutive images of a global batch that one rank must hold together.

        Args:
            images: Images of the batch over all ranks.

        Returns:
            Sizes whose sum is `images`.

        Raises:
            ConfigError: The method needs a larger batch.
        """
        return [1] * images

    def own_groups(self, batch: Batch) -> list[int]:
        """Return the sizes of `image_groups` that consist of the images of this batch or micro-batch."""
        return groups_within(self.image_groups(sum(batch.counts.images)), own_images(batch))

    @abstractmethod
    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return the uses of an encoder in one step."""

    def embed_texts(self, batch: Batch) -> Tensor | None:
        """Return embeddings of the images' texts, (B, D)."""
        return None if batch.texts is None else self._embed(batch.texts, batch.text_rows)

    def embed_region_texts(self, batch: Batch) -> Tensor | None:
        """Return embeddings of the regions' texts, (R, D)."""
        return None if batch.region_texts is None else self._embed(batch.region_texts, batch.region_text_rows)

    def _embed(self, texts: Tensor, rows_N: Tensor | None) -> Tensor:
        """Return (N, D), without a graph if the text tower is frozen. A text that several rows share is encoded once."""
        if texts.is_floating_point():
            features = texts
        else:
            with nullcontext() if self.config.train_text else torch.no_grad():
                features = self.encoder.encode_text(texts)
        return features if rows_N is None else features[rows_N]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return trainable parameters with and without weight decay.

        Source:
            open_clip and FineCLIP `training/main.py`: no decay below two dimensions, nor for names with norm, bias or logit
            scale. Class token and position embedding have three dimensions in EVA and decay.
        """
        groups = {True: ParameterGroup([], decays=True), False: ParameterGroup([], decays=False)}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.ndim >= 2 and not any(part in name for part in NO_WEIGHT_DECAY)
                groups[decays].parameters.append(parameter)
        return [group for group in groups.values() if group.parameters]

    @torch.no_grad()
    def on_step_end(self, step: int, total: int) -> None:  # noqa: ARG002 (schedules of other methods need both)
        """Clamp the inverse temperature to [1, 100] after an optimizer step.

        Args:
            step: Number of the step, from 0.
            total: Steps of the training.
        """
        self.encoder.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def export_encoder(self) -> RegionEncoder:
        """Return the encoder to publish: the trained one, or its mixture with the initial one."""
        if self.teacher is None or self.config.wise_ft_alpha == 1:
            return self.encoder
        return interpolate_weights(self.encoder, self.teacher, alpha=self.config.wise_ft_alpha)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; modules without trainable parameters stay in evaluation mode."""
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def encode_regions(encoder: RegionEncoder, batch: Batch) -> Tensor:
    """Return the dense features of the regions of a batch, (R, D)."""
    return encoder.encode_regions(require(batch.images), require(batch.boxes), require(batch.box_to_image))


def vision_path(*, image: bool, region: bool) -> VisionPath:
    """Return the path of the vision tower that gives embeddings of images, dense features of regions, or both."""
    return "shared" if image and region else "dense" if region else "global"


def freeze(encoder: RegionEncoder, config: MethodConfig) -> None:
    """Freeze all parameters except those that `config` selects and the logit scale.

    Source:
        EVA-CLIP `lock` as called by CLIPSelf, and CLIM's for OpenAI's towers: with unlocked blocks, stem, positions, class
        token, final norm and projection stay frozen. There 0 blocks unlock every block of an EVA tower; here `None` does.
    """
    for _, parameter in () if config.train_text else encoder.text_parameters():
        parameter.requires_grad_(False)
    if config.unlocked_blocks is None:
        return
    for _, parameter in encoder.vision_parameters():
        parameter.requires_grad_(False)
    for block in encoder.trunk.blocks[-config.unlocked_blocks :]:
        block.requires_grad_(True)


def frozen_copy(encoder: RegionEncoder) -> RegionEncoder:
    """Return a copy in evaluation mode without trainable parameters."""
    return copy.deepcopy(encoder).requires_grad_(False).eval()


@torch.no_grad()
def interpolate_weights(trained: RegionEncoder, initial: RegionEncoder, *, alpha: float) -> RegionEncoder:
    """Return a new encoder with weights `alpha * trained + (1 - alpha) * initial`, computed in float32.

    Args:
        trained: Not changed.
        initial: Not changed.
        alpha: In [0, 1].

    Returns:
        Frozen encoder.

    Source:
        Wortsman et al. 2022 (WiSE-FT); CLIPSelf, training/main.py `student_teacher_ensemble`.
    """
    mixed = frozen_copy(trained)
    weights, others = mixed.state_dict(), initial.state_dict()
    for name, value in weights.items():
        if value.is_floating_point():
            value.copy_(alpha * value.float() + (1 - alpha) * others[name].float())
    return mixed


def own_images(batch: Batch) -> range:
    """Return the numbers of the images of a batch or micro-batch among the images of all ranks."""
    first = first_row(batch.counts.images) + batch.first_image
    return range(first, first + len(batch.keys))


def groups_within(sizes: Sequence[int], images: range) -> list[int]:
    """Return the sizes of the groups that consist of these images of the global batch.

    Args:
        sizes: Sizes of consecutive groups, from image 0 on.
        images: Numbers of the images.

    Returns:
        Sizes in order.

    Raises:
        AssertionError: A group is only partly inside.
    """
    within = []
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        begin = end - size
        if images.start <= begin and end <= images.stop:
            within.append(size)
        elif images and begin < images.stop and images.start < end:
            raise AssertionError(f"images {begin} to {end - 1} of a batch are one group, but this rank has {images}")
    return within


def require(field: Tensor | None) -> Tensor:
    """Return a field of the batch that the transform must have filled.

    Args:
        field: The field.

    Returns:
        The same tensor.

    Raises:
        AssertionError: It is None.
    """
    if field is None:
        raise AssertionError("the method needs a field of the batch that its transform does not set")
    return field
