"""What the public sets call their fields: from a row of any of them to the fields of an edit.

A set with other names is one more line of FORMS.
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

FILE_NAME = "_file_name"  # Hugging Face's imagefolder appends it to a picture's field
LONGEST_PATH = 4096  # characters; of Linux
LANGUAGE = "language"  # no public set has a field for it

# How JPEG, PNG, WebP and GIF begin in base64; a short file has more than 60 characters.
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|UklGR|R0lGOD)[A-Za-z0-9+/=\n]{50}")


@dataclasses.dataclass(frozen=True)
class Form:
    """The field names of a set.

    Attributes:
      name: of the set.
      source: the picture before; tells the sets apart.
      target: the picture after.
      instruction: what to do.
      task: kind of edit; a row may be without it.
      id: the fields that together name an edit; a row may be without them.
      phrasings: whether the instruction is a list of phrasings of one and the same edit.
    """

    name: str
    source: str
    target: str
    instruction: str
    task: str = "task"
    id: tuple[str, ...] = ("id",)
    phrasings: bool = False

    @property
    def required(self) -> tuple[str, str, str]:
        """The fields that every row has."""
        return self.source, self.target, self.instruction


FORMS = (
    Form("our own", "source", "target", "instruction"),
    Form(
        "OmniEdit", "src_img", "edited_img", "edited_prompt_list",
        id=("omni_edit_id",), phrasings=True,
    ),
    Form("MagicBrush", "source_img", "target_img", "instruction", id=("img_id", "turn_index")),
    Form("InstructPix2Pix", "original_image", "edited_image", "edit_prompt"),
    Form("AnyEdit", "image_file", "edited_file", "edit_instruction", task="edit_type"),
    Form("ImgEdit", "input_images", "output_images", "prompt", task="task_type"),
    Form("UltraEdit", "source_image", "edited_image", "edit_prompt"),
)  # fmt: skip
KNOWN_FORMS = ", ".join(f"{form.name} ({', '.join(form.required)})" for form in FORMS)


def picture_field(names: Collection[str], field: str) -> str:
    """The name under which a picture's field is there, with or without FILE_NAME."""
    return field if field in names or field + FILE_NAME not in names else field + FILE_NAME


def missing_fields(form: Form, names: Collection[str]) -> list[str]:
    """The required fields of a form that are not among `names`."""
    source, target, instruction = form.required
    there = picture_field(names, source), picture_field(names, target), instruction
    return [name for name in there if name not in names]


def find_form(names: Collection[str]) -> Form | None:
    """The form that a row or table with these names has.

    Returns:
      The first of FORMS with all its required fields there; else the first whose source picture is
      there, since then only the row is faulty; else None.
    """
    for form in FORMS:
        if not missing_fields(form, names):
            return form
    for form in FORMS:
        if picture_field(names, form.source) in names:
            return form
    return None


def edit_fields(row: Any, name: str) -> dict[str, str]:
    """The fields of an edit from a row in any of FORMS.

    Args:
      row: what the file has, usually a dict; a UserError if it could not be parsed.
      name: of the row; stands for its id if it has none, and decides between phrasings.

    Returns:
      source, target, instruction, language, task, id.

    Raises:
      UserError: the row is no edit; the message is the reason alone.
    """
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    form = find_form(row)
    if form is None:
        raise UserError(f"it has the fields of no known form, which are: {KNOWN_FORMS}")
    source, target = (_picture(row, field) for field in (form.source, form.target))
    instruction = row.get(form.instruction)
    if form.phrasings:
        instruction = _one_phrasing(form.instruction, instruction, name)
    instruction = _text(form.instruction, instruction)
    check_instruction(instruction)
    parts = [str(row[field]) for field in form.id if row.get(field) is not None]
    return {
        "source": source,
        "target": target,
        "instruction": instruction,
        "language": _optional(row, LANGUAGE),
        "task": _optional(row, form.task),
        "id": "-".join(parts) or name,
    }


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{field} is {'missing' if value is None else 'not a text'}")
    return value


def _optional(row: dict[str, Any], field: str) -> str:
    return "" if row.get(field) is None else str(row[field])


def _picture(row: dict[str, Any], field: str) -> str:
    """A path; of a list of pictures, the only one."""
    field = picture_field(row, field)
    value = row.get(field)
    if isinstance(value, list):
        if len(value) != 1:
            raise UserError(f"{field} has {len(value)} pictures, not one")
        value = value[0]
    value = _text(field, value)
    scheme, _, rest = value.partition("://")
    if value.startswith("data:") or len(value) > LONGEST_PATH or _BASE64.match(value):
        raise UserError(
            f"{field} holds a picture itself ({len(value)} characters), not its path; save it as a"
            " file, or the list as parquet"
        )
    if rest and scheme not in STORES:
        raise UserError(f"{field} is an address ({scheme}://), not a path; download the picture")
    return value


def _one_phrasing(field: str, value: Any, name: str) -> Any:
    """One of a list (also as JSON text), by the row's name: at every run the same.

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
        raise UserError(f"{field} has a phrasing that is empty or not a text")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return value[int.from_bytes(digest[:8], "big") % len(value)]
