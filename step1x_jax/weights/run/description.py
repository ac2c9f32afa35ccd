"""A checkpoint's description: config and data sets of the run; shape, dtype and hash of each array.

It is stored in the file _CHECKPOINT_METADATA, in the part of Orbax's JSON that is ours.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from etils import epath

import step1x_jax
from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.damage import detect_damage
from step1x_jax.weights.run.fingerprints import ArrayInfos, Arrays, checksum, matches, summary
from step1x_jax.weights.run.folder import COMMITTED, check_listed

DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's name of the file
WEIGHTS = "state"  # the only item of a checkpoint of weights alone; Orbax names it
# Schema 3: other names and shapes, see earlier.py. 2: also, a fingerprint was a single sum of bits.
# 1: other names again.
SCHEMA_VERSION = 4
READ = (2, 3, SCHEMA_VERSION)
# Dtypes of parameters, moments and counters, and of files that launch.convert wrote as checkpoints.
DTYPES = (
    "float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int8", "uint64", "uint32", "uint8",
)  # fmt: skip


class _OrbaxMetadata(TypedDict, total=False):
    """The whole file. If a field had another type, Orbax could not read the run's checkpoints."""

    item_handlers: dict[str, Any] | str | None
    metrics: dict[str, Any] | None
    performance_metrics: dict[str, Any] | None
    init_timestamp_nsecs: int | None
    commit_timestamp_nsecs: int | None
    custom_metadata: dict[str, Any]


@dataclasses.dataclass
class CheckpointDescription:
    """A checkpoint without its arrays.

    Attributes:
      config: the run's config as JSON; only its sections on model and adapters are read here.
      arrays: shape, dtype and fingerprint of the arrays, by item.
      base: for adapters, the same of the weights on which they were trained; None: unknown.
      records: fingerprint of each data set of data.path (`records_fingerprint`); None: unknown.
      package: the version of step1x_jax that wrote it; "": one that did not record its version.
      schema: version of the names and shapes of its arrays.
    """

    config: Mapping[str, Any]
    arrays: dict[str, ArrayInfos]
    base: ArrayInfos | None = None
    records: list[str] | None = None
    package: str = step1x_jax.__version__
    schema: int = SCHEMA_VERSION

    @property
    def is_earlier(self) -> bool:
        """Whether its arrays have the names and shapes of earlier.py."""
        return self.schema <= earlier.LAST_SCHEMA

    @functools.cached_property
    def model(self) -> ModelConfig:
        """Sizes and dtypes of the model.

        Raises:
          UserError: the config's section is not valid.
        """
        return _read_section(ModelConfig, self.config, "model")

    @functools.cached_property
    def lora(self) -> LoraConfig:
        """Settings of the adapters; rank 0: all parameters are trained."""
        return _read_section(LoraConfig, self.config, "lora")

    @property
    def start_from(self) -> str:
        """Path of the weights from which the run started, or of its adapters' base."""
        values = self.config.get("training", {})
        source = values.get("start_from", "") if isinstance(values, dict) else ""
        return source if isinstance(source, str) else ""

    @property
    def trained(self) -> str:
        """Name of the item that holds the trained parameters."""
        return WEIGHTS if WEIGHTS in self.arrays else "params"

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON, with a checksum."""
        values: dict[str, Any] = {
            "schema_version": self.schema,
            "config": self.config,
            "arrays": self.arrays,
            "package_version": self.package,
        }
        for name in ("base", "records"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values | {"checksum": checksum(values)}


def read_description(path: epath.Path) -> CheckpointDescription:
    """Read a checkpoint's description.

    Args:
      path: WORKDIR/checkpoints/STEP.

    Raises:
      DamagedError: it cannot be read, or is not what was saved.
      UserError: it has an unsupported version, or cannot be read at the moment.
    """
    check_listed(path, COMMITTED)
    with detect_damage(path, "its description cannot be read"):
        text = (path / DESCRIPTION).read_bytes()
    if re.search(rb"[:,\[]\s*(NaN|-?Infinity)\b", text):  # earlier versions accepted these
        raise UserError(
            f"a setting in {path / DESCRIPTION} is not a finite number, which is no longer"
            " supported; continue with the version of step1x_jax that wrote it."
        )
    with detect_damage(path, "its description cannot be read"):
        about = build(_OrbaxMetadata, parse_json(text, DESCRIPTION), DESCRIPTION)["custom_metadata"]
        if about.pop("checksum") != checksum(about):
            raise ValueError("its checksum is wrong")
        version = build(int, about.get("schema_version", 1), DESCRIPTION, "schema_version")
        if version in READ:
            config, arrays = about["config"], about["arrays"]
            base, records = about.get("base"), about.get("records")
            package = build(str, about.get("package_version", ""), DESCRIPTION, "package_version")
            config = build(dict[str, Any], config, DESCRIPTION, "config")
            if version == 2:
                for one in (*arrays.values(), base or {}):
                    for array in one.values():
                        array["fingerprint"] = [array["fingerprint"]]
            arrays = build(dict[str, ArrayInfos], arrays, DESCRIPTION, "arrays")
            base = build(ArrayInfos | None, base, DESCRIPTION, "base")
            records = build(list[str] | None, records, DESCRIPTION, "records")
            if not arrays.keys() & {WEIGHTS, "params"}:
                raise ValueError("it describes no parameters")
            for one in (*arrays.values(), base or {}):
                _check_dtypes(one)
    if version not in READ:
        advice = (
            "convert it to .safetensors with that version's launch.convert, and start from that"
        )
        advice += " file (training.start_from)"
        if version > SCHEMA_VERSION:
            advice = "install a newer version"
        raise UserError(
            f"{path} was written by another version of step1x_jax (schema {version}, this one has"
            f" {SCHEMA_VERSION}); {advice}."
        )
    result = CheckpointDescription(config, arrays, base, records, package, version)
    try:
        result.model.validate()
        result.lora.validate()
    except UserError as e:
        raise UserError(f"the config in {path} is not valid: {e}") from e
    return result


def _read_section(section_type: type[Any], config: Mapping[str, Any], name: str) -> Any:
    """Read a section of a run's config; missing fields have their defaults."""
    return build(section_type, config.get(name, {}), "the config", name)


def _check_dtypes(infos: ArrayInfos) -> None:
    """Raise ValueError for dtypes that no checkpoint has."""
    for name, array in infos.items():
        if array["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of dtype {array['dtype']}")


def different_base(description: CheckpointDescription, base: ArrayInfos) -> str | None:
    """Return the first array in which weights differ from the base of adapters, or None.

    Args:
      description: of the adapters' checkpoint.
      base: describes the weights, or some of their arrays.
    """
    saved = description.base or {}
    if description.is_earlier:
        base = earlier.describe_earlier(base, saved)
    return next((n for n, x in base.items() if n not in saved or not matches(saved[n], x)), None)


def different_base_error(
    description: CheckpointDescription, path: epath.Path, name: str
) -> UserError:
    """Return the error for adapters (checkpoint at `path`) whose base differs in array `name`."""
    return UserError(
        f"the adapters in {path} were trained on other weights: {name} differs; give those that"
        f" were in {description.start_from} when training began."
    )


def check_same_arrays(saved: ArrayInfos, wanted: Arrays, path: epath.Path) -> None:
    """Raise UserError for the first array in which checkpoint and model differ."""
    for name, x in wanted.items():
        expected = f"{x.dtype}{list(x.shape)}"
        found = summary(saved[name]) if name in saved else "missing"
        if found != expected:
            raise UserError(
                f"{path} is of another model: {name} is {found} there and {expected} in this"
                " config; use the config with which the checkpoint was made."
            )
    for name in saved:
        if name not in wanted:
            raise UserError(
                f"{path} is of another model: its {name} does not exist in this config; use the"
                " config with which the checkpoint was made."
            )
