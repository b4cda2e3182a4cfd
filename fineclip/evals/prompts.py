"""How the name of a class becomes a text, or several, for the text tower.

`photo` is one text: "a photo of a dog" for a thing, "a photo of the sky" for stuff, which has no plural. `vild` are the 63
texts that CLIPSelf and FineCLIP take from ViLD, the same for things and stuff.

Legend: K classes, P prompts of a class, D embedding.
"""

from typing import Literal

import numpy as np

from fineclip.evals.sources import BenchmarkClass

# Source: CLIPSelf's text-embedding tool; the original list is ViLD's (Gu et al. 2021). The tool writes "This is" before
# every template that opens with an article; here it is part of the template.
VILD_TEMPLATES: tuple[str, ...] = (
    "There is {article} {name} in the scene.",
    "There is the {name} in the scene.",
    "This is a photo of {article} {name} in the scene.",
    "This is a photo of the {name} in the scene.",
    "This is a photo of one {name} in the scene.",
    "itap of {article} {name}.",
    "itap of my {name}.",
    "itap of the {name}.",
    "This is a photo of {article} {name}.",
    "This is a photo of my {name}.",
    "This is a photo of the {name}.",
    "This is a photo of one {name}.",
    "This is a photo of many {name}.",
    "This is a good photo of {article} {name}.",
    "This is a good photo of the {name}.",
    "This is a bad photo of {article} {name}.",
    "This is a bad photo of the {name}.",
    "This is a photo of a nice {name}.",
    "This is a photo of the nice {name}.",
    "This is a photo of a cool {name}.",
    "This is a photo of the cool {name}.",
    "This is a photo of a weird {name}.",
    "This is a photo of the weird {name}.",
    "This is a photo of a small {name}.",
    "This is a photo of the small {name}.",
    "This is a photo of a large {name}.",
    "This is a photo of the large {name}.",
    "This is a photo of a clean {name}.",
    "This is a photo of the clean {name}.",
    "This is a photo of a dirty {name}.",
    "This is a photo of the dirty {name}.",
    "This is a bright photo of {article} {name}.",
    "This is a bright photo of the {name}.",
    "This is a dark photo of {article} {name}.",
    "This is a dark photo of the {name}.",
    "This is a photo of a hard to see {name}.",
    "This is a photo of the hard to see {name}.",
    "This is a low resolution photo of {article} {name}.",
    "This is a low resolution photo of the {name}.",
    "This is a cropped photo of {article} {name}.",
    "This is a cropped photo of the {name}.",
    "This is a close-up photo of {article} {name}.",
    "This is a close-up photo of the {name}.",
    "This is a jpeg corrupted photo of {article} {name}.",
    "This is a jpeg corrupted photo of the {name}.",
    "This is a blurry photo of {article} {name}.",
    "This is a blurry photo of the {name}.",
    "This is a pixelated photo of {article} {name}.",
    "This is a pixelated photo of the {name}.",
    "This is a black and white photo of the {name}.",
    "This is a black and white photo of {article} {name}.",
    "This is a plastic {name}.",
    "This is the plastic {name}.",
    "This is a toy {name}.",
    "This is the toy {name}.",
    "This is a plushie {name}.",
    "This is the plushie {name}.",
    "This is a cartoon {name}.",
    "This is the cartoon {name}.",
    "This is an embroidered {name}.",
    "This is the embroidered {name}.",
    "This is a painting of the {name}.",
    "This is a painting of a {name}.",
)


def prompts_of(one: BenchmarkClass, kind: Literal["photo", "vild"]) -> list[str]:
    """The texts that stand for a class; as many for every class."""
    name = spoken(one.name)
    article = "an" if one.name.startswith(("a", "e", "i", "o", "u")) else "a"
    if kind == "vild":
        return [template.format(article=article, name=name) for template in VILD_TEMPLATES]
    return [f"a photo of {article if one.is_thing else 'the'} {name}"]


def spoken(name: str) -> str:
    """A class name as it stands in a sentence: `traffic_light/x.` is `traffic light or x`; hyphens stay.

    Source: CLIPSelf's text-embedding tool.
    """
    return name.lower().replace("_", " ").replace("/", " or ").rstrip(".")


def class_embedding(prompt_KPD: np.ndarray) -> np.ndarray:
    """(K, D) float32 unit vectors: the mean of a class's prompts, each of them a unit vector, made one again."""
    mean_KD = prompt_KPD.astype(np.float64).mean(axis=1)
    length_K1 = np.linalg.norm(mean_KD, axis=1, keepdims=True)
    embedding_KD: np.ndarray = (mean_KD / np.maximum(length_K1, 1e-12)).astype(np.float32)
    return embedding_KD
