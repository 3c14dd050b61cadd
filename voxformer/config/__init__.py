"""Typed configuration: one YAML file describes one training run.

`load_config` is the only door from files to values: it names every wrong key at once, each with its
line and the nearest valid key, before anything else is done.
"""

from voxformer.config.load import ConfigError, dump_config, find_config, load_config
from voxformer.config.schema import (
    AugmentConfig,
    DataConfig,
    DecodingConfig,
    MirrorConfig,
    ModelConfig,
    PretrainConfig,
    RunConfig,
    SpecAugmentConfig,
    Stage,
    TrainingConfig,
    WatchConfig,
)

__all__ = [
    "AugmentConfig",
    "ConfigError",
    "DataConfig",
    "DecodingConfig",
    "MirrorConfig",
    "ModelConfig",
    "PretrainConfig",
    "RunConfig",
    "SpecAugmentConfig",
    "Stage",
    "TrainingConfig",
    "WatchConfig",
    "dump_config",
    "find_config",
    "load_config",
]
