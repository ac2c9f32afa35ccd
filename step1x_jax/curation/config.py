"""Everything that a data set is made from, as plain dataclasses.

A file in configs/ returns a CurateConfig; command-line flags override fields of the source and of
stages by their names: --config.stages.size.least_side=128.
"""

import dataclasses
from typing import Any

from step1x_jax.bounds import Count, Fraction
from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.curation.engine.driver import Pipeline
from step1x_jax.curation.engine.source import Source
from step1x_jax.curation.engine.stage import Stage
from step1x_jax.errors import require
from step1x_jax.json_files import as_json, build, check_fields

LANGUAGES = ("en", "cn")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What goes into lists of edits and, with models, into records."""

    languages: tuple[str, ...] = LANGUAGES  # an edit is listed once in each
    held_out: Fraction = 0.05  # of the groups of photographs, with all edits of them
    held_out_groups: tuple[str, ...] = ()  # these instead, by name
    # Records are made with these, as launch.precompute makes them; without them lists are all.
    size: Count = 512  # level: about size^2 pixels
    encoder: EncoderConfig = EncoderConfig()
    autoencoder: str = ""

    def validate(self) -> None:
        """Raise UserError, naming the field, for values that cannot be used."""
        languages = self.languages
        known = bool(languages) and set(languages) <= set(LANGUAGES)
        require(
            known and len(set(languages)) == len(languages),
            "export.languages", languages, "give en, cn, or both",
        )  # fmt: skip
        require(0 <= self.held_out < 1, "export.held_out", self.held_out, "give less than 1")
        if self.autoencoder:
            self.encoder.validate()
            require(
                bool(self.encoder.path), "export.encoder.path", "", "name the folder of Qwen2.5-VL"
            )


@dataclasses.dataclass(frozen=True)
class CurateConfig:
    """A pipeline and what is made of its results."""

    source: Source = dataclasses.field(default_factory=Source)
    stages: dict[str, Stage] = dataclasses.field(default_factory=dict)
    seed: Count = 0
    max_error_rate: Fraction = 0.05  # of a stage's rows; above it the stage ends
    export: ExportConfig = ExportConfig()

    def validate(self) -> None:
        """Raise UserError, naming the field, for values that cannot be used."""
        build(Count, self.seed, "the config", "seed")
        build(Fraction, self.max_error_rate, "the config", "max_error_rate")
        check_fields(self.export, "the config", "export")
        require(isinstance(self.source, Source), "source", self.source, "give a Source")
        for name, stage in self.stages.items():
            require(isinstance(stage, Stage), f"stages.{name}", stage, "give a Stage")
            check_fields(stage, "the config", f"stages.{name}")
        check_fields(self.source, "the config", "source")
        self.export.validate()
        self.pipeline().validate()

    def pipeline(self) -> Pipeline:
        """What is run."""
        return Pipeline(self.source, self.stages, self.seed, self.max_error_rate)

    def describe(self) -> dict[str, Any]:
        """The config as JSON, with the class of each stage."""
        stages = {name: _described(stage) for name, stage in self.stages.items()}
        return {
            "seed": self.seed,
            "max_error_rate": self.max_error_rate,
            "source": _described(self.source),
            "stages": stages,
            "export": as_json(self.export),
        }


def _described(stage: Stage) -> dict[str, Any]:
    kind = type(stage)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **as_json(stage)}
