"""What a checkpoint says of itself: the run's config and records, and of each array what it is.

It is in the file _CHECKPOINT_METADATA, as the part of Orbax's JSON that is ours.
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
from step1x_jax.weights.run.damage import damage
from step1x_jax.weights.run.fingerprints import About, Arrays, checksum, same, summary
from step1x_jax.weights.run.folder import COMMITTED, check_listed

DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's name for it
WEIGHTS = "state"  # the one item of a checkpoint that is weights alone, so named by Orbax
# 3: other names and shapes, see earlier.py; 2: fingerprints were one sum of bits, besides; 1: other
# names again.
SCHEMA_VERSION = 4
READ = (2, 3, SCHEMA_VERSION)
# Of parameters, moments and counters, and of files that launch.convert wrote as checkpoints.
DTYPES = (
    "float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int8", "uint64", "uint32", "uint8",
)  # fmt: skip


class _OrbaxMetadata(TypedDict, total=False):
    """The file; of another type Orbax could read none of the run's checkpoints."""

    item_handlers: dict[str, Any] | str | None
    metrics: dict[str, Any] | None
    performance_metrics: dict[str, Any] | None
    init_timestamp_nsecs: int | None
    commit_timestamp_nsecs: int | None
    custom_metadata: dict[str, Any]


@dataclasses.dataclass
class Description:
    """A checkpoint without its arrays.

    Attributes:
      config: the run's config as JSON: what it says of the model and of adapters is read here.
      arrays: by item.
      base: of adapters, the arrays of the weights to which they belong; None: not known.
      records: fingerprint of each data set of data.path (`records_fingerprint`); None: not known.
      package: the version of step1x_jax that wrote it; "": one that did not say so yet.
      schema: how it names and shapes its arrays.
    """

    config: Mapping[str, Any]
    arrays: dict[str, About]
    base: About | None = None
    records: list[str] | None = None
    package: str = step1x_jax.__version__
    schema: int = SCHEMA_VERSION

    @property
    def is_earlier(self) -> bool:
        """Whether its arrays have the names and shapes of earlier.py."""
        return self.schema <= earlier.LAST

    @functools.cached_property
    def model(self) -> ModelConfig:
        """Sizes and dtypes of the model.

        Raises:
          UserError: they are of no model.
        """
        return _section(ModelConfig, self.config, "model")

    @functools.cached_property
    def lora(self) -> LoraConfig:
        """Settings of the adapters; rank 0: all parameters are trained."""
        return _section(LoraConfig, self.config, "lora")

    @property
    def start_from(self) -> str:
        """Where the run found the weights that it started from, or its adapters' base."""
        values = self.config.get("training", {})
        source = values.get("start_from", "") if isinstance(values, dict) else ""
        return source if isinstance(source, str) else ""

    @property
    def trained(self) -> str:
        """The item that holds what was trained."""
        return WEIGHTS if WEIGHTS in self.arrays else "params"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, with a checksum."""
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


def read_description(path: epath.Path) -> Description:
    """What a checkpoint says of itself.

    Raises:
      DamagedError: it cannot be read or is not what was saved.
      UserError: it is of another version; or it cannot be read for now.
    """
    check_listed(path, COMMITTED)
    with damage(path, "its description cannot be read"):
        text = (path / DESCRIPTION).read_bytes()
    if re.search(rb"[:,\[]\s*(NaN|-?Infinity)\b", text):  # Python's JSON once let settings be so
        raise UserError(
            f"a setting in {path / DESCRIPTION} is not a finite number, which runs can no longer"
            " have; go on with the version of step1x_jax that wrote it."
        )
    with damage(path, "its description cannot be read"):
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
            arrays = build(dict[str, About], arrays, DESCRIPTION, "arrays")
            base = build(About | None, base, DESCRIPTION, "base")
            records = build(list[str] | None, records, DESCRIPTION, "records")
            if not arrays.keys() & {WEIGHTS, "params"}:
                raise ValueError("it describes no parameters")
            for one in (*arrays.values(), base or {}):
                _check_dtypes(one)
    if version not in READ:
        advice = "write it as .safetensors with that version's launch.convert, and start from that"
        advice += " file (training.start_from)"
        if version > SCHEMA_VERSION:
            advice = "install a newer version"
        raise UserError(
            f"{path} was written by another version of step1x_jax (schema {version}, this one has"
            f" {SCHEMA_VERSION}); {advice}."
        )
    result = Description(config, arrays, base, records, package, version)
    try:
        result.model.validate()
        result.lora.validate()
    except UserError as e:
        raise UserError(f"the config in {path} fits no model: {e}") from e
    return result


def _section(kind: type[Any], config: Mapping[str, Any], name: str) -> Any:
    """A section of a run's config, with the defaults of what it does not say."""
    return build(kind, config.get(name, {}), "the config", name)


def _check_dtypes(about: About) -> None:
    """Raises ValueError for dtypes that no checkpoint has."""
    for name, array in about.items():
        if array["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of dtype {array['dtype']}")


def different_base(description: Description, base: About) -> str | None:
    """The first array in which weights differ from those that adapters were trained on.

    Args:
      description: of the adapters' checkpoint.
      base: what is there now, or a part of it.
    """
    saved = description.base or {}
    if description.is_earlier:
        base = earlier.describe_earlier(base, saved)
    return next((n for n, x in base.items() if n not in saved or not same(saved[n], x)), None)


def other_base(description: Description, path: epath.Path, name: str) -> UserError:
    """What to say of adapters (in the checkpoint at `path`) on weights that differ in `name`."""
    return UserError(
        f"the adapters in {path} were trained on other weights: {name} differs; give those that"
        f" were in {description.start_from} then."
    )


def check_same_arrays(saved: About, wanted: Arrays, path: epath.Path) -> None:
    """Raises UserError naming the first array in which checkpoint and model differ."""
    for name, x in wanted.items():
        here = f"{x.dtype}{list(x.shape)}"
        there = summary(saved[name]) if name in saved else "missing"
        if here != there:
            raise UserError(
                f"{path} is of another model: {name} is {there} there and {here} in this config;"
                " use the config that the checkpoint was made with."
            )
    for name in saved:
        if name not in wanted:
            raise UserError(
                f"{path} is of another model: its {name} does not exist in this config; use the"
                " config that the checkpoint was made with."
            )
