"""Reads rank and alpha of a LoRA's layers where they are not stored as tensors.

- JSON in the header, from diffusers and PEFT: `lora_adapter_metadata` etc., with r, lora_alpha,
  rank_pattern, alpha_pattern and use_rslora;
- header entries, from kohya and others: ss_network_alpha and ss_network_dim, lora_alpha, rank;
- JSON beside the file: PEFT's adapter_config.json, or NAME.json and lora_config.json.

If several of these exist, they must agree.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from etils import epath
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.files import file_size, is_file
from step1x_jax.json_files import build, parse_json, read_json, shown
from step1x_jax.weights.files.opening import LORA_NAMES
from step1x_jax.weights.lora.name_patterns import NamePatterns

METADATA = "lora_adapter_metadata"  # in the header, of diffusers
IN_HEADER = (METADATA, "adapter_config", "lora_config", "peft_config")
CONFIG = "adapter_config.json"  # of PEFT, beside the file
ALPHAS = ("lora_alpha", "ss_network_alpha", "network_alpha", "alpha")
RANKS = ("r", "ss_network_dim", "network_dim", "lora_rank", "lora_dim", "rank", "dim")
UNSET = ("", "None", "none", "null")
LARGEST = 16 << 20  # bytes of settings beside a file
# Settings with which a PEFT adapter is not alpha / rank * up @ down on the official weights.
UNSUPPORTED = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "arrow_config",
    "alora_invocation_tokens", "megatron_config", "target_parameters",
)  # fmt: skip
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

Rank = Annotated[int, Meta(ge=1, le=1 << 16)]
Alpha = Annotated[float, Meta(ge=0, le=1e15)]


class Settings:
    """Ranks and alphas of a LoRA according to one source."""

    def __init__(self, source: str, values: Mapping[str, Any], *, peft: bool):
        """Read the settings.

        Args:
          source: where they come from, for messages.
          values: names and numbers, or numbers as text.
          peft: they are a PEFT LoraConfig, which must have both r and lora_alpha.

        Raises:
          UserError: they are not those of a plain LoRA, or cannot be read.
        """
        self.source = source
        self._check_kind(values)
        self._rslora = bool(values.get("use_rslora"))
        self._alpha_text: Any = None
        self._alpha = self._number(values, ALPHAS, Alpha)
        self._rank = self._number(values, RANKS, Rank)
        if peft and (self._alpha is None or self._rank is None):
            name = "lora_alpha" if self._alpha is None else "r"
            raise UserError(
                f"{source}: {name} is missing or not a number in the LoRA's settings; add the value"
                " with which it was trained."
            )
        self._alphas = self._patterns(values, "alpha_pattern", Alpha)
        self._ranks = self._patterns(values, "rank_pattern", Rank)

    def alpha(self, names: tuple[str, ...], rank: int) -> float | None:
        """Return the alpha of a layer, or None if the settings do not give one.

        Args:
          names: of the layer, as patterns may spell it.
          rank: of its tensors.

        Raises:
          UserError: the settings give the layer another rank, or an alpha that is not a number.
        """
        expected = _first(self._ranks, names, self._rank)
        if expected is not None and expected != rank:
            raise UserError(
                f"{self.source}: {names[0]} has rank {rank}, its settings say {expected:g}; weights"
                " and settings are from different LoRAs: put each LoRA into its own folder."
            )
        alpha = _first(self._alphas, names, self._alpha)
        if alpha is None and self._alpha_text is not None:
            raise UserError(
                f"{self.source}: alpha is {shown(self._alpha_text)}, not a number, and {names[0]}"
                " has no alpha of its own; get the LoRA with its alphas."
            )
        if alpha is not None and self._rslora:
            alpha *= math.sqrt(rank)  # rsLoRA's factor is alpha / sqrt(rank)
        return alpha

    def _check_kind(self, values: Mapping[str, Any]) -> None:
        kind = values.get("peft_type", "LORA")
        if kind != "LORA":
            raise UserError(
                f"{self.source}: the adapter's peft_type is {shown(kind)}, but only LORA can be"
                " read; merge it with PEFT, and give the model."
            )
        for field in UNSUPPORTED:
            if values.get(field):
                raise UserError(
                    f"{self.source}: the LoRA has {field}, which cannot be converted; merge it with"
                    " PEFT, and give the model."
                )
        start = values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
            raise UserError(
                f"{self.source}: the LoRA was initialized with {shown(start)}, which changes the"
                " base, so it does not fit the official weights; save it with PEFT's"
                " path_initial_model_for_weight_conversion, which converts it to a plain LoRA."
            )

    def _number(self, values: Mapping[str, Any], names: tuple[str, ...], kind: Any) -> float | None:
        found: dict[str, float] = {}
        for name in names:
            value = values.get(name)
            if value is None or value in UNSET:
                continue
            if isinstance(value, str):
                if not re.fullmatch(r"\s*\d{1,9}(\.\d{1,18})?(e[+-]?\d{1,2})?\s*", value):
                    if names is ALPHAS:
                        self._alpha_text = value  # e.g. "Dynamic": the tensors have the alphas
                    continue
                number = float(value)
                value = int(number) if kind is Rank and number == int(number) else number
            found[name] = build(kind, value, self.source, name)
        if len(set(found.values())) > 1:
            both = " and ".join(f"{name} {value:g}" for name, value in found.items())
            raise UserError(
                f"{self.source} has {both}, which contradict each other; correct the settings."
            )
        return next(iter(found.values()), None)

    def _patterns(self, values: Mapping[str, Any], name: str, kind: Any) -> NamePatterns:
        patterns = build(dict[str, kind] | None, values.get(name), self.source, name)
        return NamePatterns(patterns or {}, f"{self.source}, {name}")


def _first(patterns: NamePatterns, names: tuple[str, ...], default: float | None) -> float | None:
    found = (patterns.get(name) for name in names)
    return next((value for value in found if value is not None), default)


def load_settings(path: epath.Path, metadata: Mapping[str, str]) -> list[Settings]:
    """Read all settings of a LoRA, in its header and beside it.

    Args:
      path: of its file.
      metadata: of its header.

    Raises:
      UserError: settings cannot be read, or are not those of a plain LoRA.
    """
    result = []
    for name in IN_HEADER:
        text = metadata.get(name, "")
        if (name == METADATA and name in metadata) or text.lstrip().startswith("{"):
            source = f"{path}, {name}"
            values = parse_json(text, source)
            if not isinstance(values, dict):
                raise UserError(
                    f"{source} is {shown(values)}, not a JSON object; get the LoRA with its"
                    " settings."
                )
            result.append(Settings(source, _model_settings(values), peft=name == METADATA))
    if any(name in metadata for name in (*ALPHAS, *RANKS)):
        result.append(Settings(str(path), metadata, peft=False))
    result += _settings_beside(path)
    return result


def _model_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the model's own settings; a pipeline's file has those of several models."""
    own = {
        key.removeprefix("transformer."): value
        for key, value in values.items()
        if key.startswith("transformer.")
    }
    return own or values


def _settings_beside(path: epath.Path) -> Iterator[Settings]:
    """Yield the settings in JSON files beside a LoRA."""
    folder, stem = path.parent, path.name.removesuffix(".safetensors")
    another = path.name != LORA_NAMES[0] and is_file(folder / LORA_NAMES[0])
    if not another and is_file(folder / CONFIG):
        yield Settings(str(folder / CONFIG), read_json(folder / CONFIG), peft=True)
    for name in (f"{stem}.json", f"{stem}_config.json", "lora_config.json"):
        file = folder / name
        if name == CONFIG or not is_file(file) or file_size(file) > LARGEST:
            continue
        try:
            values = read_json(file)
        except UserError:
            continue  # it may belong to anything else
        if any(key in values for key in (*ALPHAS, *RANKS, "peft_type")):
            yield Settings(str(file), values, peft=values.get("peft_type") == "LORA")
