"""Small BLIP-2 of transformers' classes, and its processor with a vocabulary of about 45 words."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from fineclip.miniature.shapes import COLORS, THINGS
from fineclip.miniature.textures import STUFF

CROP_PX = 48
QUERIES = 4
WIDTH = 96
HEADS = 3
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
    """Build a model with random weights from torch's global generator.

    Attention is eager: transformers' fused kernels are slower to train on a CPU.
    """
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    vision = Blip2VisionConfig(
        **sizes, intermediate_size=2 * WIDTH, num_hidden_layers=3, image_size=CROP_PX, patch_size=8, hidden_act="gelu"
    )
    bridge = Blip2QFormerConfig(
        **sizes,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        encoder_hidden_size=WIDTH,
        cross_attention_frequency=1,
        vocab_size=8,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = OPTConfig(
        **sizes,
        word_embed_proj_dim=WIDTH,
        num_hidden_layers=2,
        ffn_dim=2 * WIDTH,
        vocab_size=len(WORDS),
        max_position_embeddings=32,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.04,
        pad_token_id=WORDS.index(PAD),
        bos_token_id=WORDS.index(BEGIN),
        eos_token_id=WORDS.index(END),
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=bridge.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=WORDS.index(IMAGE),
    )
    config._attn_implementation = "eager"
    return Blip2ForConditionalGeneration(config)


def write(folder: Path, model: Blip2ForConditionalGeneration, processor: Blip2Processor) -> None:
    """Write a folder for `from_pretrained` in half precision. The model is converted in place."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights that only their owner may read
