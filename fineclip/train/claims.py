"""What identifies a run beside its inputs: the sections that it is made by, and the version of its method's code."""

from typing import Any

from pydantic import SerializeAsAny, ValidationInfo, field_validator

from fineclip.config import EncoderConfig, LoaderConfig, MethodConfig, Section, TrainConfig, parse
from fineclip.config.base import key
from fineclip.methods import METHODS

PLAN = "workflow plan"


class RunConfig(Section):
    """All that identifies a training beside its inputs."""

    method: str = key(origin=PLAN, about="name of a method")
    method_version: int = key(origin=PLAN, about="of the code of that method")
    encoder: EncoderConfig = key(origin=PLAN, about="what training starts from")
    options: SerializeAsAny[MethodConfig] = key(origin=PLAN, about="section of the method")
    loader: LoaderConfig = key(LoaderConfig(), origin=PLAN, about="section of the loader")
    train: TrainConfig = key(TrainConfig(), origin=PLAN, about="section of the loop, with the seed of the run")

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"{name!r} is no method; there are {', '.join(METHODS)}")
        return name

    @field_validator("method_version")
    @classmethod
    def _is_of_this_code(cls, version: int, info: ValidationInfo) -> int:
        name = info.data.get("method")
        if name is not None and version != METHODS[name].version:
            raise ValueError(
                f"planned for version {version} of {name}, but the code is of version {METHODS[name].version};"
                " start snakemake again"
            )
        return version

    @field_validator("options", mode="before")
    @classmethod
    def _of_the_method(cls, values: Any, info: ValidationInfo) -> Any:
        name = info.data.get("method")
        if name is None or isinstance(values, MethodConfig):
            return values
        return parse(METHODS[name].section, values, where=f"methods.{name}")


class PretrainedConfig(Section):
    """All that identifies an encoder as it comes, beside its inputs."""

    encoder: EncoderConfig = key(origin=PLAN, about="the encoder")
