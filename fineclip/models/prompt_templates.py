"""Prompt templates: texts of a class name.

`photo` is one prompt: "a photo of a dog" for a thing, "a photo of the sky" for stuff. `vild` are ViLD's 63 prompts as CLIPSelf
and FineCLIP use them, the same for things and stuff.
"""

from pathlib import Path
from typing import Literal

# Source: CLIPSelf's text-embedding tool; the original list is ViLD's (Gu et al. 2021). The tool adds "This is" to
# templates that start with an article; in the file it is part of the template.
VILD_TEMPLATES = tuple(Path(__file__).with_name("vild_templates.txt").read_text(encoding="utf-8").splitlines())


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
