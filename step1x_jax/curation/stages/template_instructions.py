"""Instructions from templates, marked as such."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded.template_texts import TEMPLATES
from step1x_jax.curation.embedded.templates import write_instruction
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each


@dataclasses.dataclass
class TemplateInstructions(Stage):
    """One of several wordings in each language, filled with the edit's words."""

    reads: ClassVar = {"category": str, "facts": dict, "slots": dict}
    writes: ClassVar = {
        "instruction_en": str,
        "instruction_cn": str,
        "instruction_by": str,
        "template_en": str,
        "template_cn": str,
    }

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"templates": digest_of(repr(sorted(TEMPLATES.items())))}

    def open(self) -> Operator:
        """See `Stage`."""
        return each(_write)


def _write(row: Row, context: Context) -> dict[str, Any]:
    written = write_instruction(
        Category(row["category"]), row["facts"], row["slots"], context.rng(row)
    )
    return {
        "instruction_en": written.en,
        "instruction_cn": written.cn,
        "instruction_by": "template",
        "template_en": written.templates["en"],
        "template_cn": written.templates["cn"],
    }
