"""Everything one training run is made of, as plain dataclasses.

A file in configs/ returns a TrainConfig; command-line flags override its fields; `validate` checks
the result (names and types by json_files.py, values by each section); config_file.py writes it
beside the run and reads it back.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import READING, EncoderConfig
from step1x_jax.data.manifest import MANIFEST, read_manifest
from step1x_jax.data.pipeline import DataConfig, data_folder
from step1x_jax.errors import UserError, require
from step1x_jax.files import fingerprint
from step1x_jax.json_files import check_fields
from step1x_jax.models.config import ModelConfig
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.training.timesteps import TimestepConfig

SCHEDULES = ("constant", "linear")


@dataclasses.dataclass
class OptimizerConfig:
    """AdamW (see optimizer.py). The paper trains at a constant 1e-5."""

    learning_rate: float = 1e-5
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of all parameters, times the learning rate
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    schedule: str = "constant"  # or "linear": flat, then linearly down to zero
    warmup_steps: int = 0
    flat_fraction: float = 0.0  # "linear": the part of all steps before the fall begins
    ema_decay: float = 0.0  # moving average of the parameters, kept beside them; 0: none

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        for name, fine, advice in (
            ("learning_rate", self.learning_rate > 0, "use a positive number"),
            ("b1", 0 <= self.b1 < 1, "use a number from 0 to below 1"),
            ("b2", 0 <= self.b2 < 1, "use a number from 0 to below 1"),
            ("eps", self.eps > 0, "use a positive number"),
            ("weight_decay", self.weight_decay >= 0, "use 0 or more"),
            ("clip_norm", self.clip_norm >= 0, "use 0 (no clipping) or more"),
            ("schedule", self.schedule in SCHEDULES, f"use one of {', '.join(SCHEDULES)}"),
            ("warmup_steps", self.warmup_steps >= 0, "use 0 or more"),
            ("flat_fraction", 0 <= self.flat_fraction <= 1, "use 0 to 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "use 0 (off) to below 1"),
        ):
            require(fine, f"optimizer.{name}", getattr(self, name), advice)


@dataclasses.dataclass
class TrainingConfig:
    """How long, from where, and how often to report."""

    steps: int = 10_000
    seed: int = 0
    log_every: int = 10  # steps between two rows of metrics
    start_from: str = ""  # a run's folder or a released .safetensors file; "": random weights

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.steps > 0, "training.steps", self.steps, "use a positive number")
        require(self.log_every > 0, "training.log_every", self.log_every, "use a positive number")


@dataclasses.dataclass
class CheckpointConfig:
    """Checkpoints of parameters, optimizer state, step and config together."""

    every: int = 1000  # steps between two checkpoints; the last step always has one
    keep: int = 3  # how many of the newest to keep

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.every > 0, "checkpoint.every", self.every, "use a positive number")
        require(self.keep > 0, "checkpoint.keep", self.keep, "use a positive number")


@dataclasses.dataclass
class TrainConfig:
    """One training run.

    `sampling`, `autoencoder` (a file or folder) and `encoder` are not used while training: they
    travel with the run, so that launch.edit needs its folder alone. They say what the data was made
    with.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    timesteps: TimestepConfig = dataclasses.field(default_factory=TimestepConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    autoencoder: str = ""
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)

    def validate(self) -> None:
        """Raises UserError, naming the field, for values that cannot be trained with."""
        check_fields(self, "the config")
        for field in dataclasses.fields(self):
            section: Any = getattr(self, field.name)
            if hasattr(section, "validate"):
                section.validate()
        dtype = self.model.param_dtype
        advice = "training needs 'float32' (model.dtype is the precision of the computation)"
        require(dtype == "float32", "model.param_dtype", dtype, advice)


# What may change when a run is resumed: how long and where it runs and what it tells, not what is
# trained on what. (More steps stretch a "linear" schedule; the mesh changes rounding.)
MAY_CHANGE = (
    "training.steps",
    "training.log_every",
    "checkpoint.",
    "mesh.",
    "model.remat",
    "model.attention",
    "data.threads",
    "data.max_bad_records",
    "sampling.",
    "autoencoder",
    "encoder.",
)


def check_same_run(config: TrainConfig, saved: TrainConfig, workdir: epath.PathLike) -> None:
    """Raises UserError if going on in `workdir` with `config` would train something else."""
    before = dict(_flat_fields(saved))
    for field, value in _flat_fields(config):
        if value != before[field] and not field.startswith(MAY_CHANGE):
            raise UserError(
                f"{field} is {value!r} but the run in {workdir} has {before[field]!r}; give the"
                " same value, or another --workdir (training.start_from can name this one)."
            )


def check_records(config: TrainConfig) -> None:
    """Raises UserError if the records were made otherwise than editing with the run would read.

    Compared is what dataset.json tells: how the encoder read, and both models where they are there.
    """
    made = read_manifest(data_folder(config.data) / MANIFEST).settings
    models = {"encoder": config.encoder.path, "autoencoder": config.autoencoder}
    for name in READING:
        value = getattr(config.encoder, name)
        before = made.get(name, value)
        if before != value:
            raise UserError(
                f"the records in {config.data.path} were made with {before} for encoder.{name}, the"
                f" config says {value}; set --config.encoder.{name}={before}, or make them again."
            )
    for name, path in models.items():
        there = bool(path) and epath.Path(path).exists()
        if name in made and there and fingerprint(path) != made[name]:
            raise UserError(
                f"the records in {config.data.path} were made with another {name} than {path}; give"
                " that one in the config, or make them again."
            )


def _flat_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("optimizer.b1", 0.9) and so on, leaf by leaf."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat_fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, tuple(value) if isinstance(value, list) else value
