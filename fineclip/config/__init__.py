"""The one source of truth for configuration: every key with its type, unit, default, meaning and origin.

`load` reads what Snakemake merged, or files; everything is validated before the first job. No torch here.
"""

from fineclip.config.base import Section, canonical, identity, parse
from fineclip.config.data import (
    AnnotationsDetect,
    Blip2Caption,
    CaptionConfig,
    CocoSource,
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
from fineclip.config.evaluation import (
    BenchmarkConfig,
    BoxesBenchmark,
    CocoCaptions,
    CocoPanoptic,
    MiniatureTest,
    RetrievalBenchmark,
)
from fineclip.config.methods import (
    ClimConfig,
    ClipConfig,
    ClipSelfConfig,
    FineCLIPConfig,
    MethodConfig,
    MethodsConfig,
    RegionClipConfig,
)
from fineclip.config.plan import DatasetConfig, PlanConfig, RuntimeConfig, ScaleConfig, StandIns, VariantConfig
from fineclip.config.root import Config, Run, load, merge, read_files
from fineclip.config.training import EncoderConfig, TrainConfig

__all__ = [
    "AnnotationsDetect",
    "BenchmarkConfig",
    "Blip2Caption",
    "BoxesBenchmark",
    "CaptionConfig",
    "ClimConfig",
    "ClipConfig",
    "ClipSelfConfig",
    "CocoCaptions",
    "CocoPanoptic",
    "CocoSource",
    "Config",
    "DatasetConfig",
    "DetectConfig",
    "EncoderConfig",
    "FilterConfig",
    "FineCLIPConfig",
    "FolderSource",
    "MethodConfig",
    "MethodsConfig",
    "MiniatureSource",
    "MiniatureTest",
    "PackConfig",
    "PlanConfig",
    "RegionClipConfig",
    "RetrievalBenchmark",
    "Run",
    "RuntimeConfig",
    "ScaleConfig",
    "Section",
    "SelectConfig",
    "SourceConfig",
    "StandIns",
    "TemplateCaption",
    "TrainConfig",
    "VariantConfig",
    "WebDatasetSource",
    "WeightsConfig",
    "YoloDetect",
    "canonical",
    "identity",
    "load",
    "merge",
    "parse",
    "read_files",
]
