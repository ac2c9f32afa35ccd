"""How an edit was made, as it is noted in its picture: enough to make it again.

A note is JSON, and may come from a stranger: it is read within bounds, every field has its type,
and nothing in it is more than a value or a name.
"""

import dataclasses
import json
import os
from typing import Annotated, Any

from msgspec import Meta

from step1x_jax.bounds import NotNegative
from step1x_jax.data.paths import make_printable
from step1x_jax.editing.output_files import NOTE, read_note
from step1x_jax.errors import UserError
from step1x_jax.files import is_remote, user_path
from step1x_jax.json_files import build, parse_json
from step1x_jax.sampling.config import GuidanceScale, SizeLevel, Steps
from step1x_jax.sampling.noise import check_seed
from step1x_jax.sampling.plan import EXACT, SamplingPlan, Speed

Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{16}-[0-9a-f]{16})?\Z")]
Dtype = Annotated[str, Meta(pattern=r"^(float32|bfloat16)\Z")]
Quantize = Annotated[str, Meta(pattern=r"^(int8|fp8)\Z")]
OutputSize = Annotated[str, Meta(pattern=r"^(input|edited|[0-9]{1,4}x[0-9]{1,4})\Z")]


@dataclasses.dataclass(frozen=True)
class File:
    """A file or folder that an edit was made with.

    Attributes:
      path: as it was given; "": it was not, for it is beside the model.
      digest: of a picture, a mask or noise the SHA-256 of its bytes; of weights their fingerprint.
    """

    path: str = ""
    digest: Digest = ""


@dataclasses.dataclass(frozen=True)
class MergedLora(File):
    """A LoRA with its strength."""

    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that an edit depends on, except devices and versions; defaults are filled in.

    Fields are those of `Editor.load` and `Editor.edit`.

    Attributes:
      seed: digits, because many readers of JSON round numbers of 64 bits.
      plan: what the speed means, for the number of steps it is stored for; None: all are computed.
      made_with: versions and device, for people.
    """

    image: File = File()
    instruction: str = ""
    negative: str = ""
    seed: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")] = "0"
    steps: Steps = 28
    guidance: GuidanceScale = 6.0
    size: SizeLevel = 1024
    truncate: NotNegative = 0.93
    speed: Speed = EXACT
    plan: SamplingPlan | None = None
    output_size: OutputSize = "input"
    mask: File | None = None
    keep_unchanged: bool = False
    align: bool = False
    noise: File | None = None
    model: File = File()
    base: str = ""
    ema: bool = False
    loras: tuple[MergedLora, ...] = ()
    autoencoder: File = File()
    encoder: File = File()
    dtype: Dtype = "float32"
    quantize: Quantize | None = None
    made_with: str = ""


FILES = ("image", "mask", "noise", "model", "loras", "autoencoder", "encoder")
_NOT_COMPARED = ("base", "made_with")  # the model's digest is of what a base is compared with


def differences(first: Recipe, second: Recipe) -> list[str]:
    """Fields in which two recipes differ; paths of files do not count, their contents do."""
    return [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name not in _NOT_COMPARED
        and _content(getattr(first, field.name)) != _content(getattr(second, field.name))
    ]


def _content(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_content, value))
    return dataclasses.replace(value, path="") if isinstance(value, File) else value


def noted_path(path: str) -> str:
    """A path as it was given, but with the home folder, which often has the user's name, as ~."""
    home = os.path.expanduser("~").rstrip(os.sep)
    if home and path.startswith(home + os.sep):
        path = "~" + path[len(home) :]
    return make_printable(path)


def to_note(recipe: Recipe) -> str:
    """The note, in ASCII; `from_note` is the way back."""
    return json.dumps(dataclasses.asdict(recipe), allow_nan=False)


def from_note(text: str, source: str) -> Recipe:
    """A recipe from its note.

    Args:
      text: the note.
      source: where it is from, for messages.

    Raises:
      UserError: it is not one, has impossible values, or a path that is on the network.
    """
    recipe = build(Recipe, parse_json(text, source), source)
    try:
        check_seed(int(recipe.seed))
        if recipe.plan is not None:
            recipe.plan.validate()
        for path in _paths(recipe):
            if is_remote(user_path(path)):  # only the user decides what is downloaded
                raise UserError(f"{path:.300} is on the network; give the flag yourself.")
    except UserError as e:
        raise UserError(f"{source}: {e}") from e
    return recipe


def _paths(recipe: Recipe) -> list[str]:
    files = [recipe.image, recipe.mask, recipe.noise, recipe.model, recipe.autoencoder,
             recipe.encoder, *recipe.loras]  # fmt: skip
    return [recipe.base, *(file.path for file in files if file is not None)]


def read_recipe(path: str) -> Recipe:
    """How a picture was made.

    Args:
      path: of a picture that launch.edit wrote.

    Raises:
      UserError: it is no picture that can be read, has no note, or see `from_note`.
    """
    text = read_note(path)
    if text is None:
        raise UserError(
            f"{path} does not say how it was made: it is not of launch.edit, or another program"
            " has saved it since."
        )
    return from_note(text, f"the note {NOTE} in {path}")
