"""Everything one training run is made of, as plain dataclasses.

A file in configs/ returns a TrainConfig; command-line flags override its fields; `validate` checks
the result (names and types by json_files.py, values by each section); config_file.py writes it
beside the run and reads it back.
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
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.training.step.timesteps import TimestepConfig

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("constant", "linear")


@dataclasses.dataclass
class OptimizerConfig:
    """AdamW or Adafactor (see optimizer.py). The paper trains at a constant 1e-5.

    Bytes a parameter: 4 for itself (2 with model.param_dtype "bfloat16"), 4 or 2 for the gradient,
    8 or 4 for the moments of AdamW, next to none for those of Adafactor.
    """

    name: str = "adamw"  # or "adafactor", which has no first moment and factors the second
    moment_dtype: str = "float32"  # of AdamW's; or "bfloat16", rounded by chance (precision.py)
    # Of the gradient while it is held, and summed over microbatches; "bfloat16" halves it.
    gradient_dtype: str = "float32"
    learning_rate: Positive = 1e-5
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0  # of all parameters, times the learning rate
    clip_norm: NotNegative = 1.0  # largest global norm of the gradient; 0: no clipping
    schedule: str = "constant"  # or "linear": flat, then linearly down to zero
    warmup_steps: Count = 0
    flat_fraction: Fraction = 0.0  # "linear": the part of all steps before the fall begins
    # Moving average of what is trained, float32, kept beside it; held-out edits are evaluated with
    # it. 0: none. Its first value is the start of the run; the decay has no warm-up. After n steps
    # the start still has the weight ema_decay^n: with 0.999, 37 % after 1000 steps and 0.7 % after
    # 5000. So take one for which 5 / (1 - ema_decay) is less than training.steps.
    ema_decay: Fraction = 0.0

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
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


@dataclasses.dataclass
class TrainingConfig:
    """How long, from where, and how often to report."""

    steps: Annotated[int, Meta(ge=0, lt=1 << 31)] = 10_000  # counted in int32
    # Parts of data.batch_size that go through the model one after another.
    accumulate: Annotated[int, Meta(ge=1, le=1 << 16)] = 1
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0
    log_every: Count = 10  # steps between two rows of metrics
    profile_at: Count = 0  # the first of some steps that the profiler traces; 0: none
    start_from: str = ""  # weights of any form, see weights/open.py; "": random weights

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.steps > 0, "training.steps", self.steps, "use a positive number")
        require(self.accumulate > 0, "training.accumulate", self.accumulate, "use 1 or more")
        require(self.log_every > 0, "training.log_every", self.log_every, "use a positive number")
        profile_at = self.profile_at
        require(profile_at >= 0, "training.profile_at", profile_at, "use a step, or 0 for none")


@dataclasses.dataclass
class CheckpointConfig:
    """Checkpoints of parameters, optimizer state, step and config together."""

    every: Count = 1000  # steps between two checkpoints; the last step always has one
    keep: Count = 3  # how many of the newest to keep

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.every > 0, "checkpoint.every", self.every, "use a positive number")
        require(self.keep > 0, "checkpoint.keep", self.keep, "use a positive number")


@dataclasses.dataclass
class HeldOutConfig:
    """Edits that are not trained on, looked at every so many steps; see held_out.py.

    With optimizer.ema_decay, loss and pictures are of the moving average, else of the parameters.
    """

    path: str = ""  # a folder that launch.precompute made; "": none
    every: Count = 500  # steps
    batches: Annotated[int, Meta(ge=0, le=1 << 20)] = (
        4  # that the loss is taken of, as large as those of training
    )
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)  # between picture (0) and noise (1)
    pictures: Annotated[int, Meta(ge=0, le=4096)] = 0  # edits sampled for a picture; 0: none

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        times = all(0 < t <= 1 for t in self.times) and len(self.times) > 0
        for name, fine, advice in (
            ("every", self.every > 0, "use a positive number"),
            ("batches", self.batches > 0, "use a positive number"),
            ("times", times, "use some numbers from above 0 to 1"),
            ("pictures", self.pictures >= 0, "use 0 (none) or more"),
        ):
            require(fine, f"held_out.{name}", getattr(self, name), advice)


@dataclasses.dataclass
class TrainConfig:
    """One training run: of all parameters or, with lora.rank, of adapters alone.

    `sampling`, `autoencoder` (a file or folder) and `encoder` are not used while training: they
    travel with the run, so that launch.edit needs its folder alone. They say what the data was made
    with.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    timesteps: TimestepConfig = dataclasses.field(default_factory=TimestepConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    held_out: HeldOutConfig = dataclasses.field(default_factory=HeldOutConfig)
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
        if self.optimizer.gradient_dtype == "bfloat16":
            fine = self.model.dtype == "bfloat16"
            advice = "it is the precision of the computation's: set model.dtype to 'bfloat16', too"
            require(fine, "optimizer.gradient_dtype", "bfloat16", advice)
        if self.lora.rank:
            advice = "adapters need weights to be added to: name a run's folder or a released file"
            require(bool(self.training.start_from), "training.start_from", "", advice)


# What may change when a run is resumed: how long and where it runs and what it tells, not what is
# trained on what. (More steps stretch a "linear" schedule; the mesh changes rounding.)
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


# With adapters, moreover, where their base lies: its fingerprints are compared.
MAY_CHANGE_WITH_LORA = ("training.start_from",)


# Settings that name places: what counts is where they lead, from the folder of the command.
PLACES = ("data.path", "training.start_from", "lora.start_from")


def check_same_run(
    config: TrainConfig,
    saved: TrainConfig,
    workdir: epath.PathLike,
    records: Sequence[str] | None = None,
    saved_records: Sequence[str] | None = None,
) -> None:
    """Compares a config with that of the run that it goes on with.

    Args:
      config: now.
      saved: of the run.
      workdir: its folder.
      records: fingerprint of each data set of data.path now; None: not known.
      saved_records: those of the run; where both are known, they count instead of data.path.

    Raises:
      UserError: going on would train something else.
    """
    may_change = MAY_CHANGE + (MAY_CHANGE_WITH_LORA if config.lora.rank else ())
    if records is not None and saved_records is not None:
        if list(records) != list(saved_records):
            raise UserError(
                f"the records in {config.data.path} are not those that the run in {workdir} is"
                f" trained on, which were in {saved.data.path}: some were added, removed or"
                " changed, or are in another order; give those records, or another --workdir"
                " (training.start_from can name this one)."
            )
        may_change += ("data.path",)
    before = dict(_flat_fields(saved))
    for field, value in _flat_fields(config):
        same = _places if field in PLACES else _itself
        if same(value) != same(before[field]) and not field.startswith(may_change):
            raise UserError(
                f"{field} is {value!r} but the run in {workdir} has {before[field]!r}; give the"
                " same value, or another --workdir (training.start_from can name this one)."
            )


def _itself(value: Any) -> Any:
    return value


def _places(paths: str) -> list[str]:
    return [str(absolute(path.strip())) if path.strip() else "" for path in paths.split(",")]


def expand_paths(config: TrainConfig) -> None:
    """Replaces ~ in all paths of a config.

    Raises:
      UserError: a path that no file system or no JSON file could hold.
    """
    config.data.path = _expanded(config.data.path)
    config.held_out.path = _expanded(config.held_out.path)
    config.training.start_from = _expanded(config.training.start_from)
    config.lora.start_from = _expanded(config.lora.start_from)
    config.autoencoder = _expanded(config.autoencoder)
    config.encoder.path = _expanded(config.encoder.path)


def _expanded(paths: str) -> str:
    return ",".join(user_path(path.strip(), stored=True) for path in paths.split(","))


def check_records(config: TrainConfig) -> None:
    """Raises UserError if the records were made otherwise than editing with the run would read.

    Compared is what dataset.json tells, of held-out records as well: how the encoder read, and both
    models where they are there.
    """
    for folder in data_folders(config.data):
        _check_records(config, folder, "make them again")
    if config.held_out.path:
        for folder in data_folders(dataclasses.replace(config.data, path=config.held_out.path)):
            _check_records(config, folder, f"make them as those in {config.data.path} were made")


def _check_records(config: TrainConfig, folder: epath.Path, again: str) -> None:
    settings = read_manifest(folder / MANIFEST).settings
    made = settings | stored_reading(settings)
    models = {"encoder": config.encoder.path, "autoencoder": config.autoencoder}
    for name in READING:
        value = getattr(config.encoder, name)
        before = made.get(name, value)
        if before != value:
            raise UserError(
                f"the records in {folder} were made with {before} for encoder.{name}, the"
                f" config says {value}; set --config.encoder.{name}={before}, or {again}."
            )
    for name, path in models.items():
        there = bool(path) and epath.Path(path).exists()
        if name in made and there and not same_files(fingerprint(path), made[name]):
            raise UserError(
                f"the records in {folder} were made with another {name} than {path}; give"
                f" that one in the config, or {again}."
            )


def _flat_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("optimizer.b1", 0.9) and so on, leaf by leaf."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat_fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, tuple(value) if isinstance(value, list) else value
