"""Field names of the public data sets, and how their rows become the fields of an edit.

A data set with other field names is one more line of DATASET_SCHEMAS.
"""

import dataclasses
import hashlib
import re
from collections.abc import Collection
from typing import Any

from step1x_jax.conditioning.prompt import check_instruction
from step1x_jax.errors import UserError
from step1x_jax.files import STORES
from step1x_jax.json_files import parse_json

FILE_NAME_SUFFIX = "_file_name"  # Hugging Face's imagefolder appends it to a picture's field name
MAX_PATH_LENGTH = 4096  # characters, the limit of Linux
LANGUAGE = "language"  # only our own lists have this field

# First characters of JPEG, PNG, WebP and GIF in base64; short files have more than 60 characters.
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|UklGR|R0lGOD)[A-Za-z0-9+/=\n]{50}")


@dataclasses.dataclass(frozen=True)
class DatasetSchema:
    """The field names of a data set.

    Attributes:
      name: name of the data set.
      source: field of the source picture; it tells the data sets apart.
      target: field of the target picture.
      instruction: field of the instruction.
      task: field of the kind of edit; optional in a row.
      id: fields that together identify an edit; optional in a row.
      paraphrases: whether the instruction is a list of paraphrases of one instruction.
    """

    name: str
    source: str
    target: str
    instruction: str
    task: str = "task"
    id: tuple[str, ...] = ("id",)
    paraphrases: bool = False

    @property
    def required(self) -> tuple[str, str, str]:
        """The fields that every row must have."""
        return self.source, self.target, self.instruction


DATASET_SCHEMAS = (
    DatasetSchema("our own", "source", "target", "instruction"),
    DatasetSchema(
        "OmniEdit", "src_img", "edited_img", "edited_prompt_list",
        id=("omni_edit_id",), paraphrases=True,
    ),
    DatasetSchema(
        "MagicBrush", "source_img", "target_img", "instruction", id=("img_id", "turn_index"),
    ),
    DatasetSchema("InstructPix2Pix", "original_image", "edited_image", "edit_prompt"),
    DatasetSchema("AnyEdit", "image_file", "edited_file", "edit_instruction", task="edit_type"),
    DatasetSchema("ImgEdit", "input_images", "output_images", "prompt", task="task_type"),
    DatasetSchema("UltraEdit", "source_image", "edited_image", "edit_prompt"),
)  # fmt: skip
KNOWN_SCHEMAS = ", ".join(f"{one.name} ({', '.join(one.required)})" for one in DATASET_SCHEMAS)


def find_picture_field(names: Collection[str], field: str) -> str:
    """Return `field` or, if only that is among `names`, `field` with FILE_NAME_SUFFIX."""
    with_suffix = field + FILE_NAME_SUFFIX
    return with_suffix if field not in names and with_suffix in names else field


def list_missing_fields(schema: DatasetSchema, names: Collection[str]) -> list[str]:
    """Return the required fields of a schema that are not among `names`."""
    source, target, instruction = schema.required
    required = find_picture_field(names, source), find_picture_field(names, target), instruction
    return [name for name in required if name not in names]


def find_schema(names: Collection[str]) -> DatasetSchema | None:
    """Find the schema of a row or table by its field names.

    Returns:
      The first of DATASET_SCHEMAS whose required fields are all present; else the first whose
      source field is present, since then only the row is faulty; else None.
    """
    for schema in DATASET_SCHEMAS:
        if not list_missing_fields(schema, names):
            return schema
    for schema in DATASET_SCHEMAS:
        if find_picture_field(names, schema.source) in names:
            return schema
    return None


def extract_edit_fields(row: Any, name: str) -> dict[str, str]:
    """Extract the fields of an edit from a row with any of DATASET_SCHEMAS.

    Args:
      row: the row, usually a dict; a UserError if it could not be parsed.
      name: name of the row: its id if the row has none, and the key that selects a paraphrase.

    Returns:
      Texts by name: source, target, instruction, language, task, id.

    Raises:
      UserError: the row is not an edit; the message contains only the reason.
    """
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    schema = find_schema(row)
    if schema is None:
        raise UserError(f"its fields match no known data set; known are: {KNOWN_SCHEMAS}")
    source, target = (_read_picture_path(row, field) for field in (schema.source, schema.target))
    instruction = row.get(schema.instruction)
    if schema.paraphrases:
        instruction = _choose_paraphrase(schema.instruction, instruction, name)
    instruction = _require_text(schema.instruction, instruction)
    check_instruction(instruction)
    parts = [str(row[field]) for field in schema.id if row.get(field) is not None]
    return {
        "source": source,
        "target": target,
        "instruction": instruction,
        "language": _read_optional(row, LANGUAGE),
        "task": _read_optional(row, schema.task),
        "id": "-".join(parts) or name,
    }


def _require_text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{field} is {'missing' if value is None else 'not a text'}")
    return value


def _read_optional(row: dict[str, Any], field: str) -> str:
    return "" if row.get(field) is None else str(row[field])


def _read_picture_path(row: dict[str, Any], field: str) -> str:
    """Return the path of a picture; a list must contain exactly one."""
    field = find_picture_field(row, field)
    value = row.get(field)
    if isinstance(value, list):
        if len(value) != 1:
            raise UserError(f"{field} has {len(value)} pictures, not one")
        value = value[0]
    value = _require_text(field, value)
    scheme, _, rest = value.partition("://")
    if value.startswith("data:") or len(value) > MAX_PATH_LENGTH or _BASE64.match(value):
        raise UserError(
            f"{field} holds a picture itself ({len(value)} characters), not its path; save it as a"
            " file, or the list as parquet"
        )
    if rest and scheme not in STORES:
        raise UserError(f"{field} is an address ({scheme}://), not a path; download the picture")
    return value


def _choose_paraphrase(field: str, value: Any, name: str) -> Any:
    """Choose one of a list (or of its JSON text) by a hash of the row's name, equal in every run.

    OmniEdit has [short, long] in every row; training should see both kinds.
    """
    if isinstance(value, str):
        try:
            parsed = parse_json(value, field)
        except UserError:
            return value
        value = parsed if isinstance(parsed, list) else value
    if not isinstance(value, list):
        return value
    if not value:
        raise UserError(f"{field} is an empty list")
    if not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f"{field} has a paraphrase that is empty or not a text")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return value[int.from_bytes(digest[:8], "big") % len(value)]
