"""Train the captioner of the miniature world from scratch: `python -m tools.shipped_models.train_captioner --out DIR`.

It learns captions such as `a red star on sand`. Shape needs many different crops; color and ground are learned early.
"""

import argparse
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"  # read by transformers when it is imported

import numpy as np
import torch
from torch import Tensor, nn

from fineclip.miniature.seeds import CAPTIONER_TRAINING, VALIDATION
from fineclip.miniature.wording import region_caption
from tools.shipped_models import captioner_files as files
from tools.shipped_models.pictures import Frame, Plan, detected_frame, draw_pictures, square_frame

if TYPE_CHECKING:
    from transformers import Blip2ForConditionalGeneration

log = logging.getLogger(__name__)

IGNORED = -100  # ignored by the language modeling loss of transformers
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Settings:
    """Settings, chosen on validation scenes."""

    scenes: int = 16_000
    epochs: int = 8
    batch: int = 64
    learning_rate: float = 1.5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    longest_gradient: float = 1.0
    validation_scenes: int = 130


def train(out: Path, settings: Settings, workers: int) -> None:
    """Draw crops, train, and write a folder for `from_pretrained`."""
    torch.set_num_threads(1)
    crops, captions = captioned_crops(CAPTIONER_TRAINING, settings.scenes, detected_frame, workers)
    truth = captioned_crops(VALIDATION, settings.validation_scenes, square_frame, workers=1)
    log.info("Drew %d crops to learn from.", len(crops))

    torch.manual_seed(CAPTIONER_TRAINING)
    model = files.new_model()
    tokens = tokenized(captions)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay, fused=True)
    steps_per_epoch = len(crops) // settings.batch
    for epoch in range(settings.epochs):
        generator = np.random.default_rng([CAPTIONER_TRAINING, epoch])
        order = generator.permutation(len(crops))
        for index in range(steps_per_epoch):
            chosen = order[index * settings.batch : (index + 1) * settings.batch]
            step = epoch * steps_per_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings.epochs * steps_per_epoch, settings)
            loss = _step(model, optimizer, mirrored(crops[chosen], generator), tokens[chosen], settings)
        scores = captioner_scores(written(model, truth[0]), truth[1])
        log.info("Epoch %d: loss %.3f, %.0f cpu-s, %s", epoch + 1, loss, time.process_time(), scores)
    files.write(out, model, files.new_processor())


def captioned_crops(seed: int, scenes: int, frame: Frame, workers: int) -> tuple[np.ndarray, list[str]]:
    """Draw crops of all things of the first scenes of a seed.

    Args:
        seed: Seed of the scenes.
        scenes: Number of scenes.
        frame: Function from the box of a thing to the box of its crop.
        workers: Processes that draw.

    Returns:
        (M, 48, 48, 3) uint8, and the M captions.
    """
    plan = Plan(seed, scenes, files.CROP_PX, files.CROP_PX, frame)
    pictures = draw_pictures(plan, workers)
    return pictures.close_ups, [region_caption(thing) for thing in pictures.things]


def normalize(crops: np.ndarray) -> Tensor:
    """Normalize crops as the processor does; (B, 3, H, W) float32."""
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(files.MEAN).view(3, 1, 1)) / torch.tensor(files.STD).view(3, 1, 1)


def mirrored(crops: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirror each crop with probability 0.5."""
    turn = generator.random(len(crops)) < 0.5
    return np.where(turn[:, None, None, None], crops[:, :, ::-1], crops)


def tokenized(captions: Sequence[str]) -> Tensor:
    """Tokenize prompt, caption and end token, padded to the longest; (M, L)."""
    rows = [[*files.PROMPT, *caption.split(), files.END] for caption in captions]
    longest = max(map(len, rows))
    return torch.tensor(
        [[files.WORDS.index(word) for word in row + [files.PAD] * (longest - len(row))] for row in rows]
    )


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to 0."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def written(model: "Blip2ForConditionalGeneration", crops: np.ndarray) -> list[str]:
    """Caption each crop."""
    model.eval()
    rows = model.generate(pixel_values=normalize(crops), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    model.train()
    return [" ".join(files.WORDS[token] for token in row if token >= files.SPECIALS) for row in rows.tolist()]


def captioner_scores(captions: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Return the percentage of captions with all words right, and with color and thing right."""
    exact = [said == true for said, true in zip(captions, truth, strict=True)]
    named = [said.split()[1:3] == true.split()[1:3] for said, true in zip(captions, truth, strict=True)]
    return {"exact": round(100 * float(np.mean(exact)), 1), "color_and_thing": round(100 * float(np.mean(named)), 1)}


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, crops: np.ndarray, tokens: Tensor, settings: Settings
) -> float:
    is_word = tokens != files.WORDS.index(files.PAD)
    labels = tokens.masked_fill(~is_word, IGNORED)
    labels[:, : len(files.PROMPT)] = IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(pixel_values=normalize(crops), input_ids=tokens, attention_mask=is_word.long(), labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.longest_gradient)
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train the captioner of the miniature world from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the captioner")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.out, Settings(), arguments.workers)


if __name__ == "__main__":
    main()
