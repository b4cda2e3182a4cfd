"""BLIP-2 captions of crops, with the classes of transformers, without downloads and without running pickled code.

Legend: B crops of a batch, L tokens generated for each, V tokens of the vocabulary.

All batches have one shape, the last is padded, and every crop is resized alone, so a caption depends on its crop only.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by transformers when it is imported

import torch
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, Blip2Processor
from transformers.utils import logging as transformers_logging

from fineclip.config import Blip2Caption
from fineclip.errors import CheckpointError
from fineclip.models.batches import full_batches, rows_at_once
from fineclip.models.captioner.blip2_files import CONFIG, WHAT, check_files, check_token, unstated_sizes
from fineclip.models.device import resolve_device
from fineclip.models.model_folders import absent_keys, read_object
from fineclip.types import RegionCaption

CPU_BATCH = 64  # twice as fast as 8; larger batches are hardly faster
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, pickle.UnpicklingError)


def without_prompt(text: str, prompt: str) -> str:
    """Remove the prompt from the start of a caption, as some models repeat it, and collapse white space."""
    words, prompt_words = text.split(), prompt.split()
    repeats = prompt_words and [word.lower() for word in words[: len(prompt_words)]] == [
        word.lower() for word in prompt_words
    ]
    return " ".join(words[len(prompt_words) :] if repeats else words)


def mean_logprob(tokens_BL: Tensor, logprobs_BL: Tensor, ends: Sequence[int]) -> list[float]:
    """Average the log-probabilities of each caption.

    Args:
        tokens_BL: Generated token ids.
        logprobs_BL: Log-probability of each token.
        ends: Ids of end tokens; the first one counts, later tokens do not.

    Returns:
        B means, rounded to 0.0001.
    """
    is_end_BL = torch.isin(tokens_BL, torch.tensor(list(ends), device=tokens_BL.device))
    written_BL = is_end_BL.cumsum(dim=1) - is_end_BL.long() == 0  # no end token before
    sums_B = torch.where(written_BL, logprobs_BL, 0.0).sum(dim=1, dtype=torch.float64)
    return [round(value, 4) for value in (sums_B / written_BL.sum(dim=1)).tolist()]


class Blip2Captioner:
    """Caption crops with BLIP-2, greedily or with beam search.

    Args:
        folder: Model and processor, as `save_pretrained` writes them.
        config: Prompt, length, beams, precision.
        device: auto, cpu, cuda or mps.
        batch_size: Crops per batch on a GPU; on a CPU it is always `CPU_BATCH`.

    Raises:
        CheckpointError: The folder does not hold a complete BLIP-2.
    """

    def __init__(self, folder: Path, config: Blip2Caption, *, device: str, batch_size: int) -> None:
        self._config = config
        self._device = resolve_device(device)
        self._rows = rows_at_once(self._device, batch_size, on_cpu=CPU_BATCH)
        processor, model = _load(folder, PRECISIONS[config.precision])
        self._images, self._tokenizer = processor.image_processor, processor.tokenizer
        self._model = model.to(self._device).eval().requires_grad_(requires_grad=False)
        end = model.language_model.generation_config.eos_token_id
        self._ends = [] if end is None else [end] if isinstance(end, int) else list(end)
        _check_model(folder, model, processor, ends=self._ends)
        self._prompt = _prompt_tokens(model.config, self._tokenizer, config.prompt)

    def describe(self, regions: Sequence[Image.Image]) -> list[RegionCaption]:
        """Return a caption for each crop, in order."""
        described = [row for batch in full_batches(regions, self._rows) for row in self._describe(batch)]
        return described[: len(regions)]

    @torch.inference_mode()
    def _describe(self, crops: Sequence[Image.Image]) -> list[RegionCaption]:
        # channels_last: a crop that is 3 pixels high would be taken for channels first
        pixels = self._images(list(crops), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        prompt = torch.tensor([self._prompt] * len(crops), device=self._device)
        written = self._model.generate(
            pixel_values=pixels.to(self._device, self._model.dtype),
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=self._config.max_new_tokens,
            num_beams=self._config.num_beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        before = 1 if self._model.config.text_config.is_encoder_decoder else len(self._prompt)
        tokens_BL = written.sequences[:, before:]
        logprobs = mean_logprob(tokens_BL, _logprobs(written, tokens_BL), self._ends)
        texts = self._tokenizer.batch_decode(tokens_BL, skip_special_tokens=True)
        return [
            RegionCaption(without_prompt(text, self._config.prompt), logprob)
            for text, logprob in zip(texts, logprobs, strict=True)
        ]


def _logprobs(written: Any, tokens_BL: Tensor) -> Tensor:
    """Return the log-probability of each token conditional on the tokens before it, (B, L)."""
    rows_BL = getattr(written, "beam_indices", None)  # rows of (B x beams); -1 after the end
    if rows_BL is None:
        rows_BL = torch.arange(len(tokens_BL), device=tokens_BL.device)[:, None].expand_as(tokens_BL)
    steps = [
        logits_RV[rows_B.clamp(min=0)].float().log_softmax(dim=-1).gather(1, tokens_B[:, None])[:, 0]
        for logits_RV, rows_B, tokens_B in zip(written.logits, rows_BL.unbind(1), tokens_BL.unbind(1), strict=False)
    ]
    return torch.stack(steps, dim=1)


def _prompt_tokens(config: Any, tokenizer: Any, prompt: str) -> list[int]:
    """Return image tokens followed by the prompt, which starts with the begin token for a decoder-only language model.

    Deviation from `Blip2Processor`: it omits the begin token if the tokenizer does not add it, and the first word is wrong then.
    """
    image_tokens = [config.image_token_index] * config.num_query_tokens
    if config.text_config.is_encoder_decoder:
        return image_tokens + list(tokenizer(prompt)["input_ids"])
    return [*image_tokens, config.text_config.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load processor and model; missing weights are an error."""
    check_files(folder)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a table of all weights that do not fit; the first is reported below
    try:
        processor = Blip2Processor.from_pretrained(folder, local_files_only=True, backend="pil")
        model, found = Blip2ForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            dtype=dtype,
            weights_only=True,
            ignore_mismatched_sizes=True,  # reported below
            output_loading_info=True,
        )
    except _UNUSABLE as error:
        reason = next(
            (line for line in str(error).splitlines() if line.strip() and "weights_only" not in line),
            type(error).__name__,
        )
        raise CheckpointError(
            f"{folder}: holds no BLIP-2 that transformers can load: {reason.rstrip('.')}{unstated_sizes(folder)}"
        ) from error
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    unused = sorted(
        name for name in found["unexpected_keys"] if ".crossattention." in name
    )  # blocks without cross-attention
    if absent or unused:
        what = "absent or of another shape" if absent else "not used"
        raise CheckpointError(
            f"{folder}: {len(absent or unused)} weights of its BLIP-2 are {what}, {(absent or unused)[0]} the first of them{unstated_sizes(folder)}"
        )
    broken = next((name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise CheckpointError(f"{folder}: {broken} holds numbers that are not finite (NaN or infinity)")
    return processor, model


def _check_model(folder: Path, model: Any, processor: Any, *, ends: Sequence[int]) -> None:
    """Check that special tokens are tokens of the language model, and that images have the size of the vision model.

    Args:
        folder: Of model and processor.
        model: The model.
        processor: Of images and texts.
        ends: Ids of end tokens.

    Raises:
        CheckpointError: One does not fit.
    """
    content, text = read_object(folder / CONFIG, what=WHAT), model.config.text_config
    tokenizer = processor.tokenizer
    tokens: list[tuple[str, int | None, int | None]] = [("image_token_index", model.config.image_token_index, None)]
    tokens += [("text_config.eos_token_id", end, tokenizer.eos_token_id) for end in (ends or (None,))]
    if not text.is_encoder_decoder:
        tokens.append(("text_config.bos_token_id", text.bos_token_id, tokenizer.bos_token_id))
    for name, token, of_tokenizer in tokens:
        stated = not absent_keys(content, [name])
        check_token(
            name, token, stated=stated, of_tokenizer=of_tokenizer, vocabulary_size=text.vocab_size, folder=folder
        )
    side, size = model.config.vision_config.image_size, processor.image_processor.size
    if (size.get("height"), size.get("width")) != (side, side):
        raise CheckpointError(
            f"{folder}: the processor's size is {dict(size)}, but vision_config.image_size is {side}. Correct the file that is wrong."
        )
