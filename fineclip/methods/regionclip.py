"""RegionCLIP: regions are classified by concepts. There are two variants.

`targets: labels`. The concept of a region is its label. The step's concepts A are the labels of all its regions and random
others:

    L = L_concept           mean over regions j of  sum_{a in A} BCE(s cos(region j, concept a), [label j is a])

with s the encoder's inverse temperature, without gradient. Source: the re-implementation in CLIPSelf's code,
training/region_clip.py. Deviations, with reasons:
  * A is sampled once for the global batch, from (seed, step) (there: on every GPU around its own labels).
  * Gradients are averaged over ranks (there: every GPU trains its own copy).
  * Up to `max_regions` are drawn from all regions whose label is a concept (there: the first 20 in the order of the file).
  * An image without such a region stays in the batch and contributes none (there: only images with annotations are listed).
  * Concepts are embedded by the initial encoder (there: read from a file that was computed by the same method).

`targets: pseudo`. A teacher, a frozen copy of the initial encoder, assigns a concept to each region. Regions are kept if
the teacher's probability is above `min_confidence`; all are kept if none is:

    L = w_distill L_distill + w_contrast L_contrast + w_global L_global

    L_distill    KL(teacher || student) over concepts,   mean over kept regions
    L_contrast   region j  ->  its concept,              in-batch negatives: concepts of all kept regions; several positives
    L_global     image i  <->  its caption,              in-batch negatives: all images

with one fixed temperature. Source: Zhong et al., CVPR 2022; official code, PretrainFastRCNN. Deviations, with reasons:
  * Student and teacher are encoders of this package; a region is pooled from the dense map of the last block (there:
    ResNets, pooled at res4 and passed through the fourth stage and the attention pool).
  * Regions are those of the data set (there: 100 at random of 300 proposals of an RPN trained on LVIS).
  * The global feature is the image's own embedding (there: a region feature of the canvas with its padding).
  * Rows of all ranks are negatives with gradient (there: L_contrast has those of one GPU, and L_global cuts every GPU to the
    smallest batch and stops the gradient of other rows).
  * "None is confident" refers to all ranks (there: to one GPU), and logarithms are those of a log-softmax.
  * Prompts of a concept are chosen by `prompts` (there: a list of their own).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.config import RegionCLIPConfig
from fineclip.errors import ConfigError
from fineclip.losses.concepts import (
    concept_contrastive_loss,
    concept_distillation_loss,
    federated_loss,
    sample_concepts,
    teacher_targets,
)
from fineclip.losses.contrastive import contrastive_loss
from fineclip.methods.base import EncoderCall, Method, encode_regions, frozen_copy, require, vision_path
from fineclip.methods.transforms import DataSpec, MethodTransform, Tokenize, TrainingExample, draw_caption, draw_regions
from fineclip.models.encoder import RegionEncoder
from fineclip.models.prompt_templates import prompts_for
from fineclip.models.tokenizer import trim_padding
from fineclip.types import Batch, Counts, Losses, Sample

VERSION = 1  # of the loss and of the transform: a change trains again
TEXTS_PER_BATCH = 1024
TEACHER_LOSSES = {"distill": concept_distillation_loss, "contrast": concept_contrastive_loss}


class Features(NamedTuple):
    """Features of this rank, not normalized, (R, D) or (B, D); None if no term needs them.

    Attributes:
        region: Dense features of regions.
        label: (R,) numbers of concepts.
        teacher: Dense features of the same regions by the teacher.
        image: Global embeddings.
        caption: Text embeddings.
        seed: Seed of the step.
    """

    region: Tensor | None = None
    label: Tensor | None = None
    teacher: Tensor | None = None
    image: Tensor | None = None
    caption: Tensor | None = None
    seed: int = 0


class RegionCLIPTransform(MethodTransform):
    """Resize the image and draw regions with the numbers of their labels, or regions and a caption of the image."""

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Number of each concept by name."""
        return {name: number for number, name in enumerate(self.data_spec.concepts)}

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Return the example of one sample in one epoch."""
        has_labels = self.config.targets == "labels"
        caption = draw_caption(sample.captions, rng)
        regions = draw_regions(
            sample,
            rng,
            at_most=self.max_regions,
            usable=lambda region: not has_labels or region.label in self.numbers,
        )
        numbers = [self.numbers[region.label] for region in regions] if has_labels else []
        pixels = self.data_spec.pixels(sample.image, self.resize)
        return TrainingExample(
            sample.key,
            pixels.image,
            text=None if has_labels else self.data_spec.texts(sample.key, [caption])[0],
            boxes=self.fractions([region.box for region in regions], sample),
            region_labels=torch.tensor(numbers, dtype=torch.int64) if has_labels else None,
            crop_plan=pixels.crop_plan,
        )


class RegionCLIP(Method[Features]):
    """Train a `RegionEncoder` with one of the RegionCLIP objectives.

    Args:
        encoder: Initial weights.
        config: Section of the method.
        concept_KD: Embeddings of the concepts; normalized here.
    """

    version = VERSION
    config_type = RegionCLIPConfig
    transform_type = RegionCLIPTransform
    concept_KD: Tensor

    def __init__(self, encoder: RegionEncoder, config: RegionCLIPConfig, concept_KD: Tensor) -> None:
        super().__init__(encoder, config)
        if config.targets == "pseudo" and self.teacher is None:
            self.teacher = frozen_copy(encoder)
        self.register_buffer("concept_KD", normalize(concept_KD, dim=-1), persistent=False)
        weights = config.weights
        self.uses_teacher = config.targets == "pseudo" and max(weights.distill, weights.contrast) > 0
        if config.targets == "labels":
            self.weights, self.path = {"concept": 1.0}, "dense"
        else:
            self.weights = weights.model_dump(by_alias=True)
            self.path = vision_path(image=weights.global_ > 0, region=self.uses_teacher)

    @classmethod
    def build(cls, encoder: RegionEncoder, config: RegionCLIPConfig, data_spec: DataSpec) -> Self:
        """Return the method with concepts embedded by the initial encoder.

        Args:
            encoder: Initial weights.
            config: Section of the method.
            data_spec: Has the names of the concepts.

        Returns:
            Method with the encoder, which is changed by training.

        Raises:
            ConfigError: There are no concepts.
        """
        concept_KD = embed_concepts(encoder, data_spec.concepts, prompts=config.prompts, tokenize=data_spec.tokenize)
        return cls(encoder, config, concept_KD)

    def encode(self, batch: Batch) -> Features:
        """Encode the regions of this rank, and images, captions and teacher features if a term needs them."""
        image_BD, region_RD = self.encode_vision(batch)
        with torch.no_grad():
            teacher_RD = encode_regions(cast("RegionEncoder", self.teacher), batch) if self.uses_teacher else None
        return Features(
            region=region_RD,
            label=require(batch.region_labels) if "concept" in self.weights else None,
            teacher=teacher_RD,
            image=image_BD,
            caption=require(self.embed_texts(batch)) if self.weights.get("global") else None,
            seed=batch.seed,
        )

    def batch_loss(self, features: Features, counts: Counts) -> Losses:
        """Compute the terms of the variant; those of regions are 0 if no rank has a region."""
        region_RD, label_R, teacher_RD, image_BD, caption_BD, seed = features
        config, concept_KD, regions = self.config, self.concept_KD, counts.regions
        temperature = config.temperature
        terms: dict[str, Tensor] = {}
        if region_RD is not None and label_R is not None:
            concepts, at_least = len(concept_KD), config.concepts_per_step
            selected_K = sample_concepts(label_R, concepts=concepts, at_least=at_least, seed=seed, counts=regions)
            scale = self.encoder.logit_scale.detach().exp()
            loss = federated_loss(region_RD, label_R, concept_KD, selected_K, logit_scale=scale, counts=regions)
            terms["concept"] = loss
        if region_RD is not None and teacher_RD is not None:
            targets = teacher_targets(
                teacher_RD, concept_KD, temperature=temperature, min_confidence=config.min_confidence, counts=regions
            )
            for name, compute in TEACHER_LOSSES.items():
                if self.weights[name]:
                    terms[name] = compute(region_RD, concept_KD, targets, temperature=temperature)
        if image_BD is not None and caption_BD is not None:
            scale = image_BD.new_tensor(1 / temperature)
            terms["global"] = contrastive_loss(image_BD, caption_BD, logit_scale=scale, counts=counts.images)
        return Losses.weighted(terms, weights=self.weights)

    def encoder_calls(self, data_spec: DataSpec) -> list[EncoderCall]:
        """Return images, and for pseudo-labels the teacher's images and the texts."""
        calls = [EncoderCall("images", data_spec.image_size, self.path)]
        if self.uses_teacher:
            calls.append(EncoderCall("images", data_spec.image_size, "dense", gradient=False))
        if self.weights.get("global"):
            calls.append(EncoderCall("texts", gradient=self.config.train_text))
        return calls


@torch.no_grad()
def embed_concepts(
    encoder: RegionEncoder, names: Sequence[str], *, prompts: Literal["photo", "vild"], tokenize: Tokenize
) -> Tensor:
    """Return unit vectors of concepts, (K, D): the normalized mean of the normalized embeddings of their prompts.

    Args:
        encoder: Its text tower and device are used.
        names: K names.
        prompts: `photo`: "a photo of a NAME"; `vild`: 63 templates.
        tokenize: Texts to tokens.

    Returns:
        (K, D) on the device of the encoder.

    Raises:
        ConfigError: There are no names.

    Source:
        CLIPSelf's text-embedding tool.
    """
    if not names:
        raise ConfigError(
            "method regionclip classifies regions by concepts, but the list of concepts is empty. Run: concepts"
        )
    texts = [prompts_for(name, prompts) for name in names]
    token_TL = trim_padding(tokenize([text for texts_of_name in texts for text in texts_of_name]))
    device = encoder.logit_scale.device
    parts = [encoder.encode_text(part.to(device)) for part in torch.split(token_TL, TEXTS_PER_BATCH)]
    prompt_KPD = normalize(torch.cat(parts), dim=-1).unflatten(0, (len(names), -1))  # type: ignore[no-untyped-call]
    return normalize(prompt_KPD.mean(dim=1), dim=-1)
