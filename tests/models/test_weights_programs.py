"""Files of other programs are recognized by the names of their tensors, which are taken from the programs where they are installed."""

from collections.abc import Callable

import open_clip
import pytest
import timm
import torch
import torchvision

from fineclip.models.checkpoints.programs import PROGRAMS, program_of
from tests.helpers.encoders import KINDS


def names_of(build: Callable[[], torch.nn.Module]) -> list[str]:
    with torch.device("meta"):
        return list(build().state_dict())


def of_transformers(kind: str) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 1}
    configs = {
        "siglip": lambda: transformers.SiglipModel(transformers.SiglipConfig(text_config=small, vision_config=small)),
        "blip-2": lambda: transformers.Blip2ForConditionalGeneration(
            transformers.Blip2Config(
                vision_config=small, qformer_config=small, text_config={"model_type": "opt", **small}
            )
        ),
        "clip-vision": lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**small)),
        "clip-text": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**small)),
        "owlvit": lambda: transformers.OwlViTForObjectDetection(
            transformers.OwlViTConfig(text_config=small, vision_config=small)
        ),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**small)),
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**small)),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**small)),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **small, hidden_size=64, intermediate_size=64, num_attention_heads=2, vocab_size=99
            )
        ),
    }
    return configs[kind]()


def of_ultralytics() -> torch.nn.Module:
    with torch.device("cpu"):  # the import makes tensors that later tests use
        pytest.importorskip("ultralytics")
        from ultralytics.nn.tasks import DetectionModel

        return DetectionModel("yolov8n.yaml", verbose=False)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: of_transformers("siglip"), "transformers' SiglipModel"),
        (lambda: of_transformers("blip-2"), "transformers' BLIP-2"),
        (lambda: of_transformers("clip-vision"), "transformers' CLIPModel, with its vision tower alone"),
        (lambda: of_transformers("clip-text"), "transformers' CLIPModel, with its text tower alone"),
        (lambda: of_transformers("owlvit"), "OWL-ViT"),
        (lambda: of_transformers("dinov2"), "DINOv2 of transformers"),
        (lambda: of_transformers("vit"), "DINOv2 of transformers"),
        (lambda: of_transformers("bert"), "BERT"),
        (lambda: of_transformers("llama"), "a language model"),
        (lambda: timm.create_model("vit_base_patch16_224"), "timm's names"),
        (lambda: timm.create_model("eva02_base_patch16_clip_224"), "timm's names"),
        (lambda: timm.create_model("convnext_tiny"), "of timm"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "of timm"),
        (lambda: timm.create_model("resnet50"), "ResNet of torchvision or timm"),
        (torchvision.models.resnet18, "ResNet of torchvision or timm"),
        (torchvision.models.vit_b_16, "ViT of torchvision"),
        (torchvision.models.vgg11, "convolutional network of torchvision"),
        (
            lambda: torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None),
            "torchvision's Faster R-CNN",
        ),
        (of_ultralytics, "ultralytics (YOLO)"),
        (lambda: open_clip.create_model("RN50", device="meta"), "CLIP with a ResNet"),
        (lambda: open_clip.create_model("coca_ViT-B-32", device="meta"), "open_clip's CoCa"),
        (lambda: open_clip.create_model("ViT-B-16-SigLIP", device="meta"), "open_clip's SigLIP"),
        (lambda: open_clip.create_model("EVA02-E-14", device="meta"), "EVA-02 E"),
        (lambda: open_clip.create_model("EVA01-g-14", device="meta"), "EVA-01"),
    ],
)
def test_models_of_other_programs(build: Callable[[], torch.nn.Module], says: str) -> None:
    names = names_of(build)
    for prefix in ("", "model.", "module."):
        found = program_of([prefix + name for name in names])
        assert found is not None and says in found.what


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"], "LoRA"),
        (["visual.blocks.0.attn.q_proj.lora_B.default.weight"], "LoRA"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "LoRA"),
        (["text_model.x.weight", "vision_model.x.SCB"], "quantized"),
        (["state.0.exp_avg"], "optimizer"),
        (["backbone.bottom_up.stem.conv1.weight", "proposal_generator.rpn_head.conv.weight"], "detectron2"),
        (
            [
                "backbone.visual.blocks.0.norm1.weight",
                "neck.lateral_convs.0.conv.weight",
                "roi_head.bbox_head.fc.weight",
            ],
            "MMDetection",
        ),
        (["transformer.encoder.layers.0.norm1.weight", "bbox_embed.0.layers.0.weight"], "Grounding DINO"),
        (["image_encoder.blocks.0.norm1.weight", "mask_decoder.iou_token.weight"], "Segment Anything"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion"),
        (["model.mm_projector.weight", "model.layers.0.self_attn.q_proj.weight"], "LLaVA"),
    ],
)
def test_names_of_other_programs(names: list[str], says: str) -> None:
    found = program_of(names)
    assert found is not None and says in found.what


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", ["ViT-B-16", "EVA02-B-16", "ViT-L-14-336-quickgelu"])
def test_a_whole_model_is_of_no_other_program(name: str, kind: str) -> None:
    assert program_of(names_of(lambda: open_clip.create_model(name, device="meta"))) is None
    build = open_clip.CustomTextCLIP if kind == "eva" else open_clip.CLIP
    options = {key: value for key, value in KINDS[kind].items() if key != "custom_text"}
    assert program_of(names_of(lambda: build(**options))) is None


def test_every_row_says_what_to_do() -> None:
    assert all(program.what and program.advice.endswith(".") and program.needs for program in PROGRAMS)
