"""Configuration: every key with type, unit, default, meaning and origin of the default.

`load` validates the values before the first job. This package does not import torch.
"""

from fineclip.config.base import Section, parse
from fineclip.config.data import (
    AnnotationsDetect,
    Blip2Caption,
    BoxesFilesDetect,
    BoxesJsonDetect,
    CaptionConfig,
    CaptionsJsonCaption,
    CocoSource,
    ConceptsConfig,
    DetectConfig,
    FilterConfig,
    FolderSource,
    MiniatureSource,
    PackConfig,
    SelectConfig,
    SourceConfig,
    TemplateCaption,
    WebDatasetSource,
    WeightsConfig,
    YoloDetect,
)
from fineclip.config.evaluation import BenchmarkConfig, MiniatureTest
from fineclip.config.methods import (
    CLIMConfig,
    CLIPConfig,
    CLIPSelfConfig,
    FineCLIPConfig,
    MethodConfig,
    MethodsConfig,
    RegionCLIPConfig,
)
from fineclip.config.plan import MEMORY_KEYS, RuntimeConfig, ScaleConfig
from fineclip.config.root import Config, Run, load, merge, read_files
from fineclip.config.training import EncoderConfig, LoaderConfig, TrainConfig

__all__ = [
    "MEMORY_KEYS",
    "AnnotationsDetect",
    "BenchmarkConfig",
    "Blip2Caption",
    "BoxesFilesDetect",
    "BoxesJsonDetect",
    "CLIMConfig",
    "CLIPConfig",
    "CLIPSelfConfig",
    "CaptionConfig",
    "CaptionsJsonCaption",
    "CocoSource",
    "ConceptsConfig",
    "Config",
    "DetectConfig",
    "EncoderConfig",
    "FilterConfig",
    "FineCLIPConfig",
    "FolderSource",
    "LoaderConfig",
    "MethodConfig",
    "MethodsConfig",
    "MiniatureSource",
    "MiniatureTest",
    "PackConfig",
    "RegionCLIPConfig",
    "Run",
    "RuntimeConfig",
    "ScaleConfig",
    "Section",
    "SelectConfig",
    "SourceConfig",
    "TemplateCaption",
    "TrainConfig",
    "WebDatasetSource",
    "WeightsConfig",
    "YoloDetect",
    "load",
    "merge",
    "parse",
    "read_files",
]
