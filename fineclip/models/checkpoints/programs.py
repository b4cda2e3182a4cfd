"""Tell which program or model a file of weights is of, by the names of its tensors. One row of `PROGRAMS` is one kind of file.

Rows are tried in order, special ones first. A name may have any prefix.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WHOLE_MODEL = "Pass weights of a whole CLIP model, with vision and text tower."
NO_TEXT = "It has no text tower, so texts cannot be compared with regions."
EXPORTED = "Pass the run or the open_clip folder that it was exported from; `fineclip export --layout open_clip` writes both towers."
MERGE = "Merge it into its base model first (peft: `merge_and_unload`), and save the weights of the result."
DETECTOR = (
    "A detector is not an encoder: a YOLO model goes into the section `detect` of the configuration. " + WHOLE_MODEL
)


class Program(NamedTuple):
    """A kind of file of weights.

    Attributes:
        what: The program and the model.
        advice: What to do.
        needs: Patterns; each is found in a name.
        lacks: Patterns that are found in no name.
    """

    what: str
    advice: str
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()


TEXT_TOWER = r"^(?!.*visual\.).*(text|token_embedding|transformer\.resblocks)"  # a name outside the vision tower
PROGRAMS: Sequence[Program] = (
    Program("a LoRA adapter (peft)", MERGE, (r"\.lora_[AB]\b|\.lora_(up|down)\b|\blora_[AB]\.|_lora_[ab]\b",)),
    Program(
        "a model that was quantized (bitsandbytes, GPTQ or AWQ)",
        "Pass the weights before quantization.",
        (r"\.(SCB|absmax|quant_state\b.*|qweight|qzeros|weight_scale)$",),
    ),
    Program(
        "the state of an optimizer",
        "Pass the file of the model's weights that was saved with it.",
        (r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)$",),
    ),
    Program(
        "transformers' BLIP-2, a captioner",
        "It goes into the section `caption` of the configuration. " + WHOLE_MODEL,
        (r"qformer\.", r"language_model\.|query_tokens"),
    ),
    Program("transformers' BLIP", WHOLE_MODEL, (r"text_(decoder|encoder)\..*crossattention\.", r"vis(ion|ual)")),
    Program(
        "LLaVA or another language model with a vision tower", WHOLE_MODEL, (r"mm_projector|multi_modal_projector",)
    ),
    Program("transformers' OWL-ViT, a detector", DETECTOR, (r"owlvit|owlv2",)),
    Program(
        "transformers' SiglipModel",
        "SigLIP has another loss and another text tower, which are not supported. " + WHOLE_MODEL,
        (r"vision_model\.head\.(attention|probe)",),
    ),
    Program(
        "open_clip's SigLIP",
        "SigLIP has another loss and another text tower, which are not supported. " + WHOLE_MODEL,
        (r"(^|\.)logit_bias$",),
    ),
    Program(
        "open_clip's CoCa",
        "Its text decoder is not supported. " + WHOLE_MODEL,
        (r"(^|\.)text_decoder\.", r"(^|\.)visual\."),
    ),
    Program("Segment Anything (SAM)", WHOLE_MODEL, (r"mask_decoder\.",)),
    Program(
        "Grounding DINO, DETR or another detector with a transformer",
        DETECTOR,
        (r"(class_embed|bbox_embed|class_labels_classifier|bbox_predictor)\.",),
    ),
    Program("torchvision's Faster R-CNN, Mask R-CNN or RetinaNet, a detector", DETECTOR, (r"backbone\.body\.",)),
    Program(
        "a detector or segmenter of detectron2, MMDetection or F-ViT",
        DETECTOR,
        (r"(^|\.)(proposal_generator|roi_heads?|rpn_head|bbox_head|mask_head|decode_head|sem_seg_head|neck)\.",),
    ),
    Program(
        "ultralytics (YOLO), a detector",
        DETECTOR,
        (
            r"(^|\.)\d+\.(conv|cv1\.conv|m\.0\.cv1\.conv)\.weight$",
            r"(^|\.)\d+\.bn\.running_mean$|(^|\.)\d+\.(cv2|dfl)\.",
        ),
    ),
    Program("a U-Net of Stable Diffusion (diffusers)", WHOLE_MODEL, (r"(^|\.)(down_blocks|input_blocks|mid_block)\.",)),
    Program(
        "transformers' CLIPModel, with its vision tower alone",
        f"{NO_TEXT} Pass the whole CLIPModel.",
        (r"vision_model\.|embeddings\.class_embedding",),
        (r"text_model\.|token_embedding",),
    ),
    Program(
        "transformers' CLIPModel, with its text tower alone",
        "It has no vision tower. Pass the whole CLIPModel.",
        (r"embeddings\.token_embedding\.weight",),
        (r"vision_model\.",),
    ),
    Program(
        "transformers' CLIPModel",
        "Some of its tensors are absent or of another size. Pass the whole CLIPModel, and its own architecture.",
        (r"vision_model\.", r"text_model\."),
    ),
    Program(
        "CLIP with a ResNet",
        "Its ResNet has no dense features here. Pass a ViT, such as ViT-B-16.",
        (r"visual\.layer1\.0\.conv1\.weight",),
    ),
    Program(
        "EVA-02 E, with 64 blocks",
        "It is not supported. Supported sizes of EVA-02 are B and L, such as EVA02-L-14-336.",
        (r"visual\.(trunk\.)?blocks\.63\.",),
    ),
    Program(
        "EVA-01, with packed query, key and value",
        "It is not supported. Supported is EVA-02, such as EVA02-B-16.",
        (r"visual\.(trunk\.)?blocks\.0\.attn\.qkv\.weight", TEXT_TOWER),
    ),
    Program(
        "the vision tower of a CLIP model alone",
        f"{NO_TEXT} Pass the weights of the whole model.",
        (r"(^|\.)visual\.(trunk\.)?(blocks|transformer)\.",),
        (TEXT_TOWER,),
    ),
    Program(
        "the text tower of a CLIP model alone",
        "It has no vision tower. Pass the weights of the whole model.",
        (r"token_embedding\.weight", r"transformer\.resblocks\.0\."),
        (r"(^|\.)visual\.",),
    ),
    Program(
        "a vision tower under timm's names, as the layout `backbone` of `fineclip export` writes it",
        f"{NO_TEXT} {EXPORTED}",
        (r"(^|\.)patch_embed\.proj\.weight$", r"(^|\.)blocks\.0\.", r"(^|\.)(cls_token|pos_embed)$"),
        (r"visual\.", r"text"),
    ),
    Program(
        "a vision model of timm (ConvNeXt, Swin or another)",
        f"{NO_TEXT} {WHOLE_MODEL}",
        (r"(^|\.)(stages\.0\.blocks|layers\.0\.blocks)\.0\.",),
        (r"visual\.", r"text"),
    ),
    Program("a ViT of torchvision", f"{NO_TEXT} {WHOLE_MODEL}", (r"encoder\.layers\.encoder_layer_0\.",)),
    Program(
        "a ViT or DINOv2 of transformers",
        f"{NO_TEXT} {WHOLE_MODEL}",
        (r"embeddings\.patch_embeddings\.projection\.weight",),
    ),
    Program(
        "a ResNet of torchvision or timm",
        f"{NO_TEXT} {WHOLE_MODEL}",
        (r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer4\.0\.conv1\.weight$"),
        (r"visual\.",),
    ),
    Program(
        "a convolutional network of torchvision",
        f"{NO_TEXT} {WHOLE_MODEL}",
        (r"(^|\.)features\.\d+\.", r"(^|\.)classifier\."),
    ),
    Program(
        "BERT or another language model of transformers", WHOLE_MODEL, (r"encoder\.layer\.0\.attention\.self\.query\.",)
    ),
    Program(
        "a language model",
        WHOLE_MODEL,
        (
            r"(^|\.)(layers|h|blocks)\.0\..*(q_proj|c_attn|query_key_value)\.weight$",
            r"(embed_tokens|wte|lm_head|word_embeddings)\.weight$",
        ),
    ),
)


def program_of(names: Iterable[str]) -> Program | None:
    """Return the kind of file that has tensors of these names.

    Args:
        names: Names of all tensors, with any prefix.

    Returns:
        First row of `PROGRAMS` that fits, or None.

    Examples:
        >>> program_of(["model.layer1.0.conv1.weight", "model.layer4.0.conv1.weight", "model.fc.bias"]).what
        'a ResNet of torchvision or timm'
    """
    text = "\n".join(names)
    return next((program for program in PROGRAMS if _fits(program, text)), None)


def _fits(program: Program, text: str) -> bool:
    needed = all(re.search(pattern, text, re.MULTILINE) for pattern in program.needs)
    return needed and not any(re.search(pattern, text, re.MULTILINE) for pattern in program.lacks)
