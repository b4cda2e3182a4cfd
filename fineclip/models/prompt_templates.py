"""Prompt templates: texts of a class name.

`photo` is one prompt: "a photo of a dog" for a thing, "a photo of the sky" for stuff. `vild` are ViLD's 63 prompts as CLIPSelf
and FineCLIP use them, the same for things and stuff.
"""

from typing import Literal

# Source: CLIPSelf's text-embedding tool; the original list is ViLD's (Gu et al. 2021). The tool adds "This is" to
# templates that start with an article; here it is part of the template.
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


def prompts_for(name: str, kind: Literal["photo", "vild"], *, is_thing: bool = True) -> list[str]:
    """Return the prompts of a class name; their number is the same for every name.

    Args:
        name: The article is `an` before a lower-case vowel, as in CLIPSelf's tool.
        kind: `photo` for 1 prompt, `vild` for 63.
        is_thing: For `photo`: whether the article is `a` or `an` rather than `the`.

    Returns:
        1 or 63 prompts.
    """
    words = spoken(name)
    article = "an" if name.startswith(("a", "e", "i", "o", "u")) else "a"
    if kind == "vild":
        return [template.format(article=article, name=words) for template in VILD_TEMPLATES]
    return [f"a photo of {article if is_thing else 'the'} {words}"]


def spoken(name: str) -> str:
    """Return a class name in the form used in sentences: `traffic_light/x.` becomes `traffic light or x`.

    Source: CLIPSelf's text-embedding tool.
    """
    return name.lower().replace("_", " ").replace("/", " or ").rstrip(".")
