"""RegionCLIP: regions told apart by the concepts that they show, of two kinds.

`targets: labels`. The label of a region is its concept, and the step's concepts A are all that its regions show and others
at random:

    L = L_concept           mean over regions j of  sum_{a in A} BCE(s cos(region j, concept a), [label j is a])

with s the encoder's inverse temperature, as a constant. Source: the re-implementation in CLIPSelf's code,
training/region_clip.py. What we change, and why:
  * A is drawn once for the whole batch, from (seed, step) (there: on every GPU around its own labels);
  * gradients are averaged over processes (there: every GPU trains its own copy);
  * up to `max_regions` are drawn from all regions whose label is a concept (there: the first 20 in the order of the file);
  * an image without such a region stays in the batch and adds nothing (there: images with annotations are listed);
  * concepts are embedded by the encoder as it comes (there: read from a file, made so beforehand).

`targets: pseudo`. A frozen copy of the initial encoder, the teacher, says what a region shows; kept are regions for which
it gives some concept more than `min_confidence`, all if there is none:

    L = w_distill L_distill + w_contrast L_contrast + w_global L_global

    L_distill    KL(teacher's probabilities || student's) over concepts, mean over kept regions
    L_contrast   region j  ->  its concept among those of all kept regions, several of which may be positives
    L_global     image i  <->  its caption, over all images of all processes

with one fixed temperature. Source: Zhong et al., CVPR 2022; official code, PretrainFastRCNN. What we change, and why:
  * student and teacher are of this package's encoders, a region is pooled from the dense map of the last block (there:
    ResNets, pooled at res4 and put through the fourth stage and the attention pool);
  * regions are those of the data set (there: 100 at random of 300 proposals of an RPN trained on LVIS);
  * the global feature is the image's own embedding (there: a region feature of the canvas, with its padding);
  * rows of all processes are compared, and gradient flows to each (there: L_contrast compares those of one GPU, and
    L_global cuts every GPU to the smallest batch and stops the gradient of the others' rows);
  * whether no region is sure is asked of the whole batch (there: of one GPU's), and logarithms are those of a log-softmax;
  * the prompts of a concept are chosen by `prompts` (there: a list of their own).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fineclip.config import RegionClipConfig
from fineclip.errors import ConfigError
from fineclip.methods.base import Method, frozen_copy, given
from fineclip.methods.concepts import (
    concept_contrast,
    drawn_concepts,
    embed_concepts,
    federated_loss,
    taught,
    teacher_loss,
)
from fineclip.methods.contrastive import contrastive_loss, gather_rows
from fineclip.methods.items import RESIZES, Inputs, Item, Prepare, draw_caption, draw_regions, stack_boxes
from fineclip.models.encoder import RegionEncoder
from fineclip.types import Batch, Counts, Losses, Region, Sample

VERSION = 1  # of the loss and of what is drawn: a change of it trains again


class Features(NamedTuple):
    """What the objective compares, of width D: a row for each image or each region of this process; its labels.

    None where no term needs it. `seed` is that of the step.
    """

    region: Tensor | None = None
    label: Tensor | None = None
    teacher: Tensor | None = None
    image: Tensor | None = None
    caption: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True)
class PrepareRegionClip:
    """The image on its square, and some of its regions: with the numbers of their labels, or with a caption of the image.

    `numbers` are those of the concepts, by their names.
    """

    inputs: Inputs
    options: RegionClipConfig
    max_regions: int
    numbers: Mapping[str, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """One visit to a sample.

        Raises:
            UndecodableImage: its bytes are no image.
        """
        resize = RESIZES[self.options.resize]
        has_labels = self.options.targets == "labels"
        caption = draw_caption(sample.captions, rng)
        regions = draw_regions(
            sample, rng, at_most=self.max_regions, usable=self._has_number if has_labels else _is_region
        )
        numbers = [self.numbers[region.label] for region in regions] if has_labels else []
        pixels = self.inputs.pixels(sample.image, resize)
        return Item(
            sample.key,
            pixels.image,
            text=None if has_labels else self.inputs.texts(sample.key, [caption])[0],
            boxes=stack_boxes([resize.fractions(region.box, sample) for region in regions]),
            region_labels=torch.tensor(numbers, dtype=torch.int64) if has_labels else None,
            cuts=pixels.cuts,
        )

    def _has_number(self, region: Region) -> bool:
        return region.label in self.numbers


def _is_region(_: Region) -> bool:
    return True


class RegionClip(Method[Features]):
    """The RegionCLIP objectives on a `RegionEncoder`.

    Attributes:
        concept_KD: unit vectors, what stands for each concept; they do not learn.
    """

    version = VERSION
    section = RegionClipConfig
    concept_KD: Tensor

    def __init__(self, encoder: RegionEncoder, options: RegionClipConfig, concept_KD: Tensor) -> None:
        super().__init__(encoder, options)
        if options.targets == "pseudo" and self.initial is None:
            self.initial = frozen_copy(encoder)
        self.register_buffer("concept_KD", normalize(concept_KD, dim=-1), persistent=False)
        weights = options.weights
        self.weights = {"distill": weights.distill, "contrast": weights.contrast, "global": weights.global_}

    @classmethod
    def build(cls, encoder: RegionEncoder, options: RegionClipConfig, inputs: Inputs) -> Self:
        """The method on an encoder, which embeds the concepts as it comes.

        Raises:
            ConfigError: there is no concept.
        """
        if not inputs.concepts:
            raise ConfigError(
                "method regionclip tells regions apart by concepts, and there is none. Make some: concepts"
            )
        concept_KD = embed_concepts(encoder, inputs.concepts, prompts=options.prompts, tokenize=inputs.tokenize)
        return cls(encoder, options, concept_KD)

    @classmethod
    def preparation(cls, inputs: Inputs, options: RegionClipConfig, *, max_regions: int) -> Prepare:
        """Images and regions with their labels; or images, captions and regions."""
        numbers = {name: number for number, name in enumerate(inputs.concepts)}
        return PrepareRegionClip(inputs, options, max_regions, numbers)

    def features(self, batch: Batch) -> Features:
        """Encode the rows of this process, as far as a term needs them. No communication."""
        return self._labelled(batch) if self.options.targets == "labels" else self._taught(batch)

    def _labelled(self, batch: Batch) -> Features:
        region_RD = self.encoder.encode_regions(given(batch.images), given(batch.boxes), given(batch.box_to_image))
        return Features(region=region_RD, label=given(batch.region_labels), seed=batch.seed)

    def _taught(self, batch: Batch) -> Features:
        images, has_global = given(batch.images), self.weights["global"] > 0
        caption_BD = self.encode_captions(batch) if has_global else None
        if self.initial is None or not (self.weights["distill"] or self.weights["contrast"]):
            return Features(image=self.encoder.encode_image(images), caption=caption_BD)
        boxes_R4, box_to_image_R = given(batch.boxes), given(batch.box_to_image)
        with torch.no_grad():
            teacher_RD = self.initial.encode_regions(images, boxes_R4, box_to_image_R)
        if not has_global:
            return Features(self.encoder.encode_regions(images, boxes_R4, box_to_image_R), teacher=teacher_RD)
        image_BD, region_RD = self.encoder.encode_image_and_regions(images, boxes_R4, box_to_image_R)
        return Features(region_RD, teacher=teacher_RD, image=image_BD, caption=caption_BD)

    def loss(self, rows: Features, counts: Counts) -> Losses:
        """One of the module docstring's equations. Without regions their terms are 0."""
        if rows.region is not None and rows.label is not None:
            loss = self._of_labels(rows.region, rows.label, counts, seed=rows.seed)
            return Losses.weighted({"concept": loss}, weights={"concept": 1.0})
        terms: dict[str, Tensor] = {}
        if rows.region is not None and rows.teacher is not None:
            terms |= self._of_teacher(rows.region, rows.teacher, counts)
        if rows.image is not None and rows.caption is not None:
            scale = rows.image.new_tensor(1 / self.options.temperature)
            terms["global"] = contrastive_loss(rows.image, rows.caption, scale=scale, counts=counts.images)
        return Losses.weighted(terms, weights=self.weights)

    def _of_labels(self, region_RD: Tensor, label_R: Tensor, counts: Counts, *, seed: int) -> Tensor:
        label_M = gather_rows(label_R[:, None], counts.regions)[:, 0]
        drawn_K = drawn_concepts(
            label_M, concepts=len(self.concept_KD), at_least=self.options.concepts_per_step, seed=seed
        )
        scale = self.encoder.logit_scale.detach().exp()
        return federated_loss(region_RD, label_R, self.concept_KD, drawn_K, scale=scale, counts=counts.regions)

    def _of_teacher(self, region_RD: Tensor, teacher_RD: Tensor, counts: Counts) -> dict[str, Tensor]:
        concept_KD, temperature = self.concept_KD, self.options.temperature
        said = taught(
            teacher_RD,
            concept_KD,
            temperature=temperature,
            min_confidence=self.options.min_confidence,
            counts=counts.regions,
        )
        losses = {"distill": teacher_loss, "contrast": concept_contrast}
        return {
            name: loss(region_RD, concept_KD, said, temperature=temperature)
            for name, loss in losses.items()
            if self.weights[name]
        }
