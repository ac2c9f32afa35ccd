"""The config of a training run as plain dataclasses.

A file in configs/ returns a TrainConfig and command-line flags override its fields. `validate`
checks names and types (json_files.py) and the values of each section. config_file.py writes the
config to the run's folder and reads it back.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from etils import epath
from msgspec import Meta

from step1x_jax.bounds import Count, Fraction, NotNegative, Positive
from step1x_jax.conditioning.encoder import READING, EncoderConfig, stored_reading
from step1x_jax.data.manifest import MANIFEST, read_manifest
from step1x_jax.data.pipeline import DataConfig, data_folders
from step1x_jax.errors import UserError, require
from step1x_jax.files import absolute, fingerprint, same_files, user_path
from step1x_jax.json_files import check_fields
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.training.step.timesteps import TimestepConfig

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("constant", "linear")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Adafactor (see optimizer.py). The paper trains at a constant 1e-5.

    Bytes per parameter: 4 for the parameter (2 with model.param_dtype "bfloat16"), 4 or 2 for the
    gradient, and 8 or 4 for AdamW's moments. Adafactor's moments need almost none.
    """

    name: str = "adamw"  # or "adafactor": no first moment, factored second moment
    # AdamW's moments: "float32", or "bfloat16" with stochastic rounding (step/precision.py).
    moment_dtype: str = "float32"
    # The gradient in memory and its sum over microbatches; "bfloat16" halves its size.
    gradient_dtype: str = "float32"
    learning_rate: Positive = 1e-5
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0  # decoupled, on all parameters, scaled by the learning rate
    clip_norm: NotNegative = 1.0  # maximum global gradient norm; 0: no clipping
    schedule: str = "constant"  # or "linear": constant, then linear decay to zero
    warmup_steps: Count = 0
    flat_fraction: Fraction = 0.0  # "linear": fraction of all steps before the decay begins
    # Exponential moving average (EMA) of the trained parameters in float32, also used to evaluate
    # the held-out edits. 0: no average. It starts at the initial parameters and has no warm-up, so
    # after n steps these still have the weight ema_decay^n: with 0.999, 37 % after 1000 steps and
    # 0.7 % after 5000. Choose a value with 5 / (1 - ema_decay) below training.steps.
    ema_decay: Fraction = 0.0

    def validate(self) -> None:
        """Raise UserError, naming the field, for impossible values."""
        dtypes = "float32", "bfloat16"
        for name, fine, advice in (
            ("name", self.name in OPTIMIZERS, f"use one of {', '.join(OPTIMIZERS)}"),
            ("moment_dtype", self.moment_dtype in dtypes, "use 'float32' or 'bfloat16'"),
            ("gradient_dtype", self.gradient_dtype in dtypes, "use 'float32' or 'bfloat16'"),
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
        fine = self.name == "adamw" or self.moment_dtype == "float32"
        advice = "Adafactor's moments are small and always 'float32'"
        require(fine, "optimizer.moment_dtype", self.moment_dtype, advice)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length, start and reporting of the run."""

    steps: Annotated[int, Meta(ge=0, lt=1 << 31)] = 10_000  # counted in int32
    # Number of microbatches into which data.batch_size is split (gradient accumulation).
    accumulate: Annotated[int, Meta(ge=1, le=1 << 16)] = 1
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0
    log_every: Count = 10  # steps between two rows of metrics
    profile_at: Count = 0  # first of the steps that the profiler traces; 0: none
    start_from: str = ""  # weights in any format, see weights/open.py; "": random weights

    def validate(self) -> None:
        """Raise UserError, naming the field, for impossible values."""
        require(self.steps > 0, "training.steps", self.steps, "use a positive number")
        require(self.accumulate > 0, "training.accumulate", self.accumulate, "use 1 or more")
        require(self.log_every > 0, "training.log_every", self.log_every, "use a positive number")
        profile_at = self.profile_at
        require(profile_at >= 0, "training.profile_at", profile_at, "use a step, or 0 for none")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """How often checkpoints are written and how many are kept."""

    every: Count = 1000  # steps between checkpoints; the last step always gets one
    keep: Count = 3  # number of newest checkpoints to keep

    def validate(self) -> None:
        """Raise UserError, naming the field, for impossible values."""
        require(self.every > 0, "checkpoint.every", self.every, "use a positive number")
        require(self.keep > 0, "checkpoint.keep", self.keep, "use a positive number")


@dataclasses.dataclass(frozen=True)
class HeldOutConfig:
    """Evaluation on edits that are not trained on; see monitoring/held_out.py.

    With optimizer.ema_decay the moving average is evaluated, otherwise the parameters.
    """

    path: str = ""  # a folder written by launch.precompute; "": no evaluation
    every: Count = 500  # steps between evaluations
    # Batches, of the training batch size, over which the loss is averaged.
    batches: Annotated[int, Meta(ge=0, le=1 << 20)] = 4
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)  # timesteps; 0 is the picture, 1 is noise
    pictures: Annotated[int, Meta(ge=0, le=4096)] = 0  # edits that are sampled; 0: none

    def validate(self) -> None:
        """Raise UserError, naming the field, for impossible values."""
        times = all(0 < t <= 1 for t in self.times) and len(self.times) > 0
        for name, fine, advice in (
            ("every", self.every > 0, "use a positive number"),
            ("batches", self.batches > 0, "use a positive number"),
            ("times", times, "use one or more numbers above 0 and at most 1"),
            ("pictures", self.pictures >= 0, "use 0 (none) or more"),
        ):
            require(fine, f"held_out.{name}", getattr(self, name), advice)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run, of all parameters or, with lora.rank, of adapters only.

    Training does not use `sampling`, `autoencoder` (a file or folder) and `encoder`. They are
    stored with the run, so that launch.edit needs only its folder. `autoencoder` and `encoder` name
    the models with which the data was encoded.
    """

    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    timesteps: TimestepConfig = TimestepConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    mesh: MeshConfig = MeshConfig()
    sampling: SamplingConfig = SamplingConfig()
    autoencoder: str = ""
    encoder: EncoderConfig = EncoderConfig()

    def validate(self) -> None:
        """Raise UserError, naming the field, for values that no run can use."""
        check_fields(self, "the config")
        for field in dataclasses.fields(self):
            section: Any = getattr(self, field.name)
            if hasattr(section, "validate"):
                section.validate()
        if self.optimizer.gradient_dtype == "bfloat16":
            fine = self.model.dtype == "bfloat16"
            advice = "gradients are computed in model.dtype: set that to 'bfloat16' as well"
            require(fine, "optimizer.gradient_dtype", "bfloat16", advice)
        if self.lora.rank:
            advice = "adapters need base weights: give a run's folder or a released file"
            require(bool(self.training.start_from), "training.start_from", "", advice)


# Fields that may change when a run is resumed: its length, hardware and reporting, but not what is
# trained on which data. (More steps stretch a "linear" schedule; the mesh changes rounding.)
MAY_CHANGE = (
    "training.steps",
    "training.log_every",
    "training.profile_at",
    "checkpoint.",
    "held_out.",
    "mesh.",
    "model.remat",
    "model.attention",
    "data.threads",
    "data.max_bad_records",
    "sampling.",
    "autoencoder",
    "encoder.",
)


# With adapters also the path of the base, because its fingerprints are compared.
MAY_CHANGE_WITH_LORA = ("training.start_from",)


# Fields that hold paths. Those that must not change within a run are compared as absolute paths.
COMPARED_PATHS = ("data.path", "training.start_from", "lora.start_from")
PATHS = (*COMPARED_PATHS, "held_out.path", "autoencoder", "encoder.path")


def check_same_run(
    config: TrainConfig,
    saved: TrainConfig,
    workdir: epath.PathLike,
    records: Sequence[str] | None = None,
    saved_records: Sequence[str] | None = None,
) -> None:
    """Check that a config fits the run that it resumes.

    Args:
      config: the current config.
      saved: the config of the run.
      workdir: the run's folder.
      records: current fingerprint of each data set of data.path; None if unknown.
      saved_records: fingerprints stored by the run. If both are known, they are compared instead
        of data.path.

    Raises:
      UserError: a field differs that must not change within a run.
    """
    may_change = MAY_CHANGE + (MAY_CHANGE_WITH_LORA if config.lora.rank else ())
    if records is not None and saved_records is not None:
        if list(records) != list(saved_records):
            raise UserError(
                f"the records in {config.data.path} are not those that the run in {workdir} is"
                f" trained on, which were in {saved.data.path}: some were added, removed, changed"
                " or reordered; give the same records, or another --workdir (training.start_from"
                " can name this run)."
            )
        may_change += ("data.path",)
    before = dict(_flat_fields(saved))
    for field, value in _flat_fields(config):
        same = _absolute_paths if field in COMPARED_PATHS else _identity
        if same(value) != same(before[field]) and not field.startswith(may_change):
            raise UserError(
                f"{field} is {value!r} but the run in {workdir} has {before[field]!r}; give the"
                " same value, or another --workdir (training.start_from can name this run)."
            )


def _identity(value: Any) -> Any:
    return value


def _absolute_paths(paths: str) -> list[str]:
    return [str(absolute(path.strip())) if path.strip() else "" for path in paths.split(",")]


def expand_paths(config: TrainConfig) -> TrainConfig:
    """Return the config with ~ expanded in all its paths.

    Raises:
      UserError: a path cannot be used in a file system or stored in JSON.
    """
    paths = {name: value for name, value in _flat_fields(config) if name in PATHS}
    return override(config, {name: _expand(value) for name, value in paths.items()})


def _expand(paths: str) -> str:
    return ",".join(user_path(path.strip(), stored=True) for path in paths.split(","))


def check_records(config: TrainConfig) -> None:
    """Check that training and held-out records were encoded as the config says.

    Compares the encoder's settings stored in dataset.json and, if their files exist, the
    fingerprints of encoder and autoencoder.

    Raises:
      UserError: the records were encoded with other settings or models.
    """
    for folder in data_folders(config.data):
        _check_records(config, folder, "encode them again")
    if config.held_out.path:
        for folder in data_folders(dataclasses.replace(config.data, path=config.held_out.path)):
            _check_records(config, folder, f"encode them like those in {config.data.path}")


def _check_records(config: TrainConfig, folder: epath.Path, again: str) -> None:
    settings = read_manifest(folder / MANIFEST).settings
    made = settings | stored_reading(settings)
    models = {"encoder": config.encoder.path, "autoencoder": config.autoencoder}
    for name in READING:
        value = getattr(config.encoder, name)
        before = made.get(name, value)
        if before != value:
            raise UserError(
                f"the records in {folder} were made with encoder.{name}={before}, but the config"
                f" has {value}; set --config.encoder.{name}={before}, or {again}."
            )
    for name, path in models.items():
        there = bool(path) and epath.Path(path).exists()
        if name in made and there and not same_files(fingerprint(path), made[name]):
            raise UserError(
                f"the records in {folder} were made with another {name} than {path}; give the"
                f" original one in the config, or {again}."
            )


def _flat_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every leaf field, for example ("optimizer.b1", 0.9)."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat_fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, tuple(value) if isinstance(value, list) else value
