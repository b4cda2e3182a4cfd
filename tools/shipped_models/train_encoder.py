"""Train the encoder of the miniature world from scratch: `python -m tools.shipped_models.train_encoder --out DIR`.

Training starts with close-ups, as small transformers learn shape late and from many distinct objects; then close-ups and scenes
alternate. The objective is CLIP's only, so that dense features leave room for the methods of this library.

The batch of a step is a function of (seed, step), so a stopped run resumes from `DIR/training-state.pt`.
"""

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from fineclip.miniature.seeds import ENCODER_TRAINING, VALIDATION
from fineclip.miniature.wording import ALT_PHRASES, PLACES, alt_text, with_article
from fineclip.miniature.world import Thing
from fineclip.models.tokenizer import Tokenizer
from fineclip.shards import atomic
from tools.shipped_models import encoder_files as files
from tools.shipped_models.encoder_scores import ValidationScenes, encoder_scores, normalized
from tools.shipped_models.fast_clip import encode_images, encode_texts
from tools.shipped_models.pictures import Pictures, Plan, draw_pictures, loose_frame

log = logging.getLogger(__name__)

STORED_CLOSE_UP_PX = 54  # a random window of 48 is used
LARGEST_LOG_SCALE = math.log(100)


@dataclass(frozen=True)
class Settings:
    """Settings, chosen on validation scenes. Steps are optimizer steps."""

    scenes: int = 60_000
    close_up_steps: int = 2_500  # then close-ups and scenes alternate
    steps: int = 10_500
    cooldown_steps: int = 2_500  # at the end: linear decay to 0
    cosine_steps: int = 15_500  # length of the cosine, which the cooldown cuts off
    close_up_batch: int = 256
    scene_batch: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    longest_gradient: float = 1.0
    validation_scenes: int = 300
    validate_every: int = 1_000


class Batches:
    """Batches of images and texts by step."""

    def __init__(self, pictures: Pictures, settings: Settings) -> None:
        self.pictures, self.settings, self.things = pictures, settings, pictures.things

    def at(self, step: int) -> tuple[np.ndarray, list[str]]:
        """Return the batch of a step: close-ups first, later scenes at every second step."""
        generator = np.random.default_rng([ENCODER_TRAINING, step])
        shows_scenes = step >= self.settings.close_up_steps and step % 2 == 1
        pixels, texts = self._scenes(generator) if shows_scenes else self._close_ups(generator)
        mirrored = generator.random(len(pixels)) < 0.5
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        return pixels, texts

    def _close_ups(self, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        chosen = generator.integers(len(self.things), size=self.settings.close_up_batch)
        corners = generator.integers(STORED_CLOSE_UP_PX - files.CLOSE_UP_PX + 1, size=(len(chosen), 2))
        windows = [
            self.pictures.close_ups[index, y : y + files.CLOSE_UP_PX, x : x + files.CLOSE_UP_PX]
            for index, (y, x) in zip(chosen, corners, strict=True)
        ]
        return np.stack(windows), [close_up_text(self.things[index], generator) for index in chosen]

    def _scenes(self, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        chosen = generator.integers(len(self.pictures.scenes), size=self.settings.scene_batch)
        texts = [
            alt_text(self.pictures.things_of_scene[index], self.pictures.places[index], generator) for index in chosen
        ]
        return self.pictures.scenes[chosen], texts


def close_up_text(thing: Thing, generator: np.random.Generator) -> str:
    """Draw a web-style text about one thing, mostly with its color, sometimes with its place."""
    name = with_article(f"{thing.color} {thing.label}" if generator.random() < 0.65 else thing.label)
    where = ("", "", "", f" {PLACES[thing.ground]}", f" on {thing.ground}")[generator.integers(5)]
    return ALT_PHRASES[generator.integers(len(ALT_PHRASES))].format(name + where)


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Compute symmetric InfoNCE over one batch."""
    logits = scale * images @ texts.T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def learning_rate(step: int, settings: Settings) -> float:
    """Return the learning rate: linear warm-up, the first part of a long cosine, then linear decay to 0."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    cooldown_start = settings.steps - settings.cooldown_steps
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(step, cooldown_start) / settings.cosine_steps)
    cooldown = min(1.0, (settings.steps - step) / settings.cooldown_steps)
    return settings.learning_rate * warmup * cosine * cooldown


def decayed_and_not(model: CLIP, weight_decay: float) -> list[dict[str, object]]:
    """Return parameter groups: weight decay for matrices only, not for gains, biases and the temperature."""
    parameters = list(model.parameters())
    return [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]


def train(out: Path, settings: Settings, workers: int) -> None:
    """Draw scenes, train, and write the files of the encoder to `out` at each validation."""
    torch.set_num_threads(1)
    files.write_description(out)
    validation = ValidationScenes(VALIDATION, settings.validation_scenes)
    plan = Plan(ENCODER_TRAINING, settings.scenes, files.IMAGE_PX, STORED_CLOSE_UP_PX, loose_frame)
    batches = Batches(draw_pictures(plan, workers), settings)
    log.info("Drew %d scenes with %d things.", settings.scenes, len(batches.things))

    torch.manual_seed(ENCODER_TRAINING)
    model = files.new_model(out)
    tokenize = Tokenizer(context_length=model.context_length, bpe=out / "bpe.txt.gz")
    optimizer = torch.optim.AdamW(decayed_and_not(model, settings.weight_decay), betas=(0.9, 0.98), fused=True)
    first_step = _restore(out, model, optimizer)
    for step in range(first_step, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        loss = _step(model, optimizer, batches.at(step), tokenize, settings)
        done = step + 1
        if done % 100 == 0:
            log.info("Step %d of %d: loss %.3f, %.0f cpu-s.", done, settings.steps, loss, time.process_time())
        if done % settings.validate_every == 0 or done == settings.steps:
            log.info("Step %d: %s", done, encoder_scores(model, tokenize, validation))
            files.write_weights(out, model)
            _save(out, model, optimizer, done)
    (out / "training-state.pt").unlink(missing_ok=True)


def _step(
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    batch: tuple[np.ndarray, Sequence[str]],
    tokenize: Tokenizer,
    settings: Settings,
) -> float:
    pixels, texts = batch
    with torch.autocast("cpu", torch.bfloat16):
        images_BD = encode_images(model, normalized(pixels))
        texts_BD = encode_texts(model, tokenize(texts))
    loss = clip_loss(images_BD, texts_BD, model.logit_scale.exp())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), settings.longest_gradient)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, LARGEST_LOG_SCALE)
    return float(loss.detach())


def _save(out: Path, model: CLIP, optimizer: torch.optim.Optimizer, step: int) -> None:
    with atomic(out / "training-state.pt") as temporary:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)


def _restore(out: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last saved state and return its step; 0 if there is none."""
    path = out / "training-state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("Resuming from step %d of %s.", state["step"], path)
    return int(state["step"])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train the encoder of the miniature world from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.out, Settings(), arguments.workers)


if __name__ == "__main__":
    main()
