"""Small BLIP-2 of transformers' classes, and its processor with a vocabulary of about 45 words."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from fineclip.miniature import WEIGHTS
from fineclip.miniature.shapes import COLORS, THINGS
from fineclip.miniature.textures import STUFF

CROP_PX = 48
QUERIES = 4
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

PAD, BEGIN, END, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
WORDS = (PAD, BEGIN, END, UNKNOWN, IMAGE, "a", "an", "on", *COLORS, *THINGS, *STUFF)
SPECIALS = 5  # of them come first
PROMPT = (IMAGE,) * QUERIES + (BEGIN,)  # inserted by transformers before the text of an image without a prompt


def new_processor() -> Blip2Processor:
    """Build image preprocessing and a tokenizer of whole words."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
    )
    images = BlipImageProcessor(size={"height": CROP_PX, "width": CROP_PX}, image_mean=list(MEAN), image_std=list(STD))
    return Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def new_model() -> Blip2ForConditionalGeneration:
    """Build a model of the shipped architecture with random weights from torch's global generator.

    Attention is eager: transformers' fused kernels are slower to train on a CPU.
    """
    config = Blip2Config.from_pretrained(WEIGHTS / "captioner")
    config.text_config.vocab_size = len(WORDS)
    config._attn_implementation = "eager"
    return Blip2ForConditionalGeneration(config)


def write(folder: Path, model: Blip2ForConditionalGeneration, processor: Blip2Processor) -> None:
    """Write a folder for `from_pretrained` in half precision. The model is converted in place."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights that only their owner may read
