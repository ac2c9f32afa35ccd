"""The stage that has a language model look at source and target: was it done, and how well?"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from step1x_jax.asking.replies import parse_reply
from step1x_jax.curation.chat.prompts import TEXT, digest_prompts, fill_prompt, object_schema
from step1x_jax.curation.chat.stage import Asked, ChatStage, Conversation, RowQuestion

BEST = 10
MOST_UNDONE = 5  # of success, where the edit was not done
MOST_FAULTS = 20
LONGEST = 1000  # characters of a text in an answer
PROMPTS = ("verdict_system", "verdict")
Score = Annotated[int, Meta(ge=0, le=BEST)]
Text = Annotated[str, Meta(max_length=LONGEST)]


@dataclasses.dataclass(frozen=True)
class VerdictReply:
    """A reply.

    Attributes:
      done: whether the target shows what was asked for.
      unchanged: what of the rest stayed, and what did not.
      faults: visible ones of the target.
      reason: of the verdict, a sentence.
      success: of the edit.
      quality: of the picture.
    """

    done: bool
    unchanged: Text
    faults: Annotated[tuple[Text, ...], Meta(max_length=MOST_FAULTS)]
    reason: Annotated[str, Meta(min_length=1, max_length=LONGEST)]
    success: Score
    quality: Score

    @property
    def contradictory(self) -> bool:
        """Whether it counts as a success what it says was not done."""
        return not self.done and self.success > MOST_UNDONE


_NUMBER = {"type": "integer", "minimum": 0, "maximum": BEST}
# What it sees comes before its numbers, which so can follow from that.
SCHEMA = object_schema(
    done={"type": "boolean"},
    unchanged=TEXT,
    faults={"type": "array", "items": TEXT},
    reason=TEXT,
    success=_NUMBER,
    quality=_NUMBER,
)


@dataclasses.dataclass
class Verdict(ChatStage):
    """What a model says of an edit: scores of its success and of the picture's quality, 0 to 10.

    It leaves out no row that it has an answer for: `Limits` does, so that other limits ask nothing
    again. An answer that is not in its form, or contradicts itself, is asked for again, and the row
    is rejected in the end. `verdict` has the other answers: done, unchanged, faults.
    """

    reads: ClassVar = {"source": bytes, "target": bytes, "instruction_en": str}
    writes: ClassVar = {
        "verdict_success": float,
        "verdict_quality": float,
        "verdict_reason": str,
        "verdict": dict,
    }
    pictures: ClassVar = ("source", "target")
    system: ClassVar = "verdict_system"
    word: ClassVar = "verdict"

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"prompts": digest_prompts(PROMPTS)}

    def ask(self, conversation: Conversation) -> None:
        """See `ChatStage`."""

        def question(one: Asked) -> RowQuestion:
            text = fill_prompt("verdict", {"instruction": one.row["instruction_en"]})
            return RowQuestion("verdict", text, SCHEMA)

        def parse(one: Asked, text: str) -> VerdictReply | None:
            answer = parse_reply(VerdictReply, text)
            return None if answer is None or answer.contradictory else answer

        for one, answer in conversation.ask(question, parse):
            one.outcome = {
                "verdict_success": float(answer.success),
                "verdict_quality": float(answer.quality),
                "verdict_reason": answer.reason,
                "verdict": {
                    "done": answer.done,
                    "unchanged": answer.unchanged,
                    "faults": list(answer.faults),
                },
            }
