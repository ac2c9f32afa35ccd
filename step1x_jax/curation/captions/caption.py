"""The stage that has a language model write instructions: rounds, then both languages."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from step1x_jax.asking.replies import parse_reply
from step1x_jax.curation.captions.examples import bank_digest, draw_examples
from step1x_jax.curation.captions.prompts import (
    ROUND_SCHEMA,
    WRITE_SCHEMA,
    prompts_digest,
    round_text,
    write_text,
)
from step1x_jax.curation.captions.rounds import Annotation, RoundReply
from step1x_jax.curation.chat.stage import Asked, ChatStage, Conversation, RowQuestion
from step1x_jax.curation.engine.rows import ID
from step1x_jax.curation.filters.language import LONGEST, check_languages
from step1x_jax.errors import require


@dataclasses.dataclass(frozen=True)
class _Written:
    """The instruction in both languages."""

    en: str
    cn: str


@dataclasses.dataclass
class Caption(ChatStage):
    """Instructions by a language model that sees source and target.

    Attributes:
      rounds: of annotation.
      needed: rounds that must hold a claim.
      examples: of the bank, in each language.
    """

    rounds: int = 3
    needed: int = 2
    examples: int = 3

    reads: ClassVar = {"category": str, "source": bytes, "target": bytes}
    writes: ClassVar = {
        "instruction_en": str,
        "instruction_cn": str,
        "instruction_by": str,
        "caption_rounds": list[str],  # each round's reply, as JSON
        "caption_claims": list[str],  # those that were kept
        "caption_examples": list[str],  # those that the model was shown
    }
    pictures: ClassVar = ("source", "target")
    system: ClassVar = "system"
    word: ClassVar = "caption"

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        require(1 <= self.rounds <= 10, "rounds", self.rounds, "give 1 to 10")
        require(1 <= self.needed <= self.rounds, "needed", self.needed, "give 1 to rounds")
        require(0 <= self.examples <= 6, "examples", self.examples, "the bank has 6 of each")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"prompts": prompts_digest(), "bank": bank_digest()}

    def ask(self, conversation: Conversation) -> None:
        """See `ChatStage`."""
        annotations = {one.row[ID]: Annotation() for one in conversation.going}
        for one in conversation.going:
            one.columns["caption_rounds"] = []
        for number in range(1, self.rounds + 1):
            self._annotate(conversation, annotations, number)
        self._instruct(conversation, annotations)

    def _annotate(
        self, conversation: Conversation, annotations: Mapping[str, Annotation], number: int
    ) -> None:
        """A round; those that ask the same are repeats of it, each with its own reply."""

        def question(one: Asked) -> RowQuestion:
            text = round_text(one.row["category"], annotations[one.row[ID]].latest)
            return RowQuestion(f"round {number}", text, ROUND_SCHEMA, number)

        def parse(one: Asked, text: str) -> RoundReply | None:
            reply = parse_reply(RoundReply, text)
            given = len(annotations[one.row[ID]].latest)
            return reply if reply is not None and reply.problem(given) is None else None

        for one, reply in conversation.ask(question, parse):
            annotations[one.row[ID]].add(reply)
            said = json.dumps(dataclasses.asdict(reply), ensure_ascii=False)
            one.columns["caption_rounds"].append(said)

    def _instruct(self, conversation: Conversation, annotations: Mapping[str, Annotation]) -> None:
        """The instructions, of what the rounds agree on."""
        claims: dict[str, list[str]] = {}
        shown: dict[str, dict[str, tuple[str, ...]]] = {}
        for one in conversation.going:
            id = one.row[ID]
            claims[id] = [claim.text for claim in annotations[id].kept(self.needed)]
            if not claims[id]:
                one.reject("unconfirmed")
            rng = conversation.context.rng(one.row)
            shown[id] = draw_examples(one.row["category"], self.examples, rng)

        def question(one: Asked) -> RowQuestion:
            id = one.row[ID]
            text = write_text(one.row["category"], claims[id], shown[id])
            return RowQuestion("instruction", text, WRITE_SCHEMA)

        def parse(one: Asked, text: str) -> _Written | None:
            written = parse_reply(_Written, text)
            fine = written is not None and max(len(written.en), len(written.cn)) <= LONGEST
            return written if fine else None

        for one, written in conversation.ask(question, parse):
            id = one.row[ID]
            one.columns |= {
                "instruction_en": " ".join(written.en.split()),
                "instruction_cn": " ".join(written.cn.split()),
                "instruction_by": self.model,
                "caption_claims": claims[id],
                "caption_examples": [text for texts in shown[id].values() for text in texts],
            }
            problem = check_languages(one.columns)
            if problem is None:
                one.outcome = one.columns
            else:
                one.reject(problem)
