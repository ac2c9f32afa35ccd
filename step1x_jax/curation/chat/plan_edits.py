"""The stage that has a language model plan edits of photographs, for editors that take words."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from etils import epath

import step1x_jax
from step1x_jax.asking.replies import parse_reply
from step1x_jax.curation.categories import Category
from step1x_jax.curation.chat.prompts import TEXT, digest_prompts, fill_prompt, object_schema
from step1x_jax.curation.chat.stage import Asked, ChatStage, Conversation, RowQuestion
from step1x_jax.curation.engine.rows import Rejected, Row
from step1x_jax.curation.filters.language import LONGEST, check_english
from step1x_jax.errors import require
from step1x_jax.json_files import build, parse_json

MOST_EDITS = 20  # of a photograph
PROMPTS = ("plan_system", "plan", "plan_tags")
_FILE = epath.Path(step1x_jax.__file__).parent / "assets" / "curation" / "categories.json"


@dataclasses.dataclass(frozen=True)
class PlannedEdit:
    """An edit as the model proposes it."""

    category: str
    instruction: str
    target: str


@dataclasses.dataclass(frozen=True)
class PlanReply:
    """A reply."""

    edits: tuple[PlannedEdit, ...]


@dataclasses.dataclass
class PlanEdits(ChatStage):
    """Edits that fit a photograph: kind, instruction, and what the edited picture shows.

    `instruction_en` is what `OwnEditor` is told; `target_prompt`, a caption of the edited picture,
    is what `Sd3ControlNet` is told. Where an edit is, is not planned: there is no mask, and so
    nothing for `FluxFill`, whose plans are those of `PlanFills`. A plan that is not in its form,
    has more edits or another category than was asked for, is asked for again, and the photograph is
    rejected in the end. An edit whose texts are not English is rejected by itself.

    Attributes:
      count: edits of each photograph, at most.
      categories: those that are asked for.
    """

    count: int = 3
    categories: tuple[str, ...] = tuple(map(str, Category))

    reads: ClassVar = {"picture": bytes, "tags": list[str]}
    optional: ClassVar = ("tags",)
    writes: ClassVar = {
        "category": str,
        "source": bytes,
        "instruction_en": str,
        "instruction_by": str,
        "target_prompt": str,
    }
    many: ClassVar = True
    pictures: ClassVar = ("picture",)
    system: ClassVar = "plan_system"
    word: ClassVar = "plan"

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        require(1 <= self.count <= MOST_EDITS, "count", self.count, f"give 1 to {MOST_EDITS}")
        known = bool(self.categories) and set(self.categories) <= set(Category)
        once = len(set(self.categories)) == len(self.categories)
        names = ", ".join(Category)
        require(known and once, "categories", self.categories, f"give some of {names}, each once")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        kinds = hashlib.sha256(_FILE.read_bytes()).hexdigest()
        return {"prompts": digest_prompts(PROMPTS), "kinds": kinds}

    def ask(self, conversation: Conversation) -> None:
        """See `ChatStage`."""
        schema = plan_schema(self.count, self.categories)

        def question(one: Asked) -> RowQuestion:
            text = plan_text(self.count, self.categories, one.row["tags"] or ())
            return RowQuestion("plan", text, schema)

        def parse(one: Asked, text: str) -> PlanReply | None:
            plan = parse_reply(PlanReply, text)
            return plan if plan is not None and self._fits(plan) else None

        for one, plan in conversation.ask(question, parse):
            if plan.edits:
                one.outcome = [self._planned(one.row, edit) for edit in plan.edits]
            else:
                one.reject("empty")

    def _fits(self, plan: PlanReply) -> bool:
        """Whether it is what was asked for; a model need not hold to a schema."""
        return len(plan.edits) <= self.count and all(
            edit.category in self.categories
            and max(len(edit.instruction), len(edit.target)) <= LONGEST
            for edit in plan.edits
        )

    def _planned(self, row: Row, edit: PlannedEdit) -> Mapping[str, Any] | Rejected:
        columns = {
            "category": edit.category,
            "source": row["picture"],
            "instruction_en": " ".join(edit.instruction.split()),
            "instruction_by": self.model,
            "target_prompt": " ".join(edit.target.split()),
        }
        problem = check_english(edit.instruction) or check_english(edit.target)
        return Rejected(f"{self.word}_{problem}", columns=columns) if problem else columns


@functools.cache
def read_kinds() -> dict[Category, str]:
    """What an edit of each category changes, in words for a model."""
    return build(dict[Category, str], parse_json(_FILE.read_bytes(), _FILE.name), _FILE.name)


def plan_text(count: int, categories: Sequence[str], tags: Sequence[str]) -> str:
    """The question.

    Args:
      count: edits, at most.
      categories: those that are asked for.
      tags: what was found on the photograph, if somebody has looked.
    """
    kinds = "\n".join(f"- {name}: {read_kinds()[Category(name)]}" for name in categories)
    found = f"\n{fill_prompt('plan_tags', {'tags': ', '.join(tags)})}\n" if tags else ""
    return fill_prompt("plan", {"count": str(count), "kinds": kinds, "tags": found})


def plan_schema(count: int, categories: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a plan."""
    category = {"type": "string", "enum": list(categories)}
    edit = object_schema(category=category, instruction=TEXT, target=TEXT)
    return object_schema(edits={"type": "array", "items": edit, "maxItems": count})
