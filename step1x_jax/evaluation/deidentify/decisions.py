"""Decisions of a person about each picture, as the page of `review` exports them."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from etils import epath
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.findings import Digest, Findings, PictureFindings, Place
from step1x_jax.json_files import build, read_json, shown

MOST_BOXES = 1000  # of a picture
LONGEST_TEXT = 10_000  # characters of an instruction

Text = Annotated[str, Meta(min_length=1, max_length=LONGEST_TEXT)]
Action = Literal["keep", "redact", "replace", "drop"]


@dataclasses.dataclass(frozen=True)
class Redaction:
    """A rectangle to make unrecognisable; sides as `Box` has them."""

    x0: Place
    y0: Place
    x1: Place
    y1: Place
    how: Literal["fill", "blur"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """About a picture.

    Attributes:
      action: keep it as it is, redact the boxes, replace it by a look-alike, or drop it.
      boxes: what is redacted; none unless that is the action.
      look_alike: digest of what replaces it; None unless that is the action.
      instructions: of its requests, in their order, as they are to be published.
    """

    action: Action
    boxes: Annotated[list[Redaction], Meta(max_length=MOST_BOXES)]
    look_alike: Digest | None
    instructions: list[Text]


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The decisions of one person.

    Attributes:
      format: of this file.
      scan: the findings to which it belongs.
      reviewer: who that was, in their own words.
      exported: when, by that computer's clock.
      decisions: by the digest of the private picture.
    """

    format: Literal[1]
    scan: str
    reviewer: Annotated[str, Meta(min_length=1, max_length=200)]
    exported: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
    decisions: dict[Digest, Decision]


def read_decisions(
    paths: Sequence[epath.PathLike], findings: Findings
) -> dict[str, tuple[str, Decision]]:
    """Read what several people decided, checked against the findings.

    Args:
      paths: JSON files that the page exported.
      findings: of the scan.

    Returns:
      By the digest of the private picture: the reviewer and what they decided.

    Raises:
      UserError: a file belongs to other findings, decides what cannot be done, or differs from
        another one about a picture.
    """
    pictures = {picture.digest: picture for picture in findings.pictures}
    merged: dict[str, tuple[str, Decision]] = {}
    for path in paths:
        one: Decisions = build(Decisions, read_json(path), str(path))
        if one.scan != findings.scan:
            raise UserError(
                f"{path} belongs to the scan {shown(one.scan)}, not to {findings.scan}; give the"
                " findings that were reviewed."
            )
        for digest, decision in one.decisions.items():
            if digest not in pictures:
                raise UserError(f"{path} decides about a picture that no scan knows; leave it out.")
            _check(decision, pictures[digest], f"{path}, picture {digest[:12]}")
            if digest in merged and merged[digest][1] != decision:
                raise UserError(
                    f"{path} and another file decide differently about the picture {digest[:12]}"
                    f" ({'/'.join(filter(None, pictures[digest].requests[0].id))}); leave one out."
                )
            merged[digest] = one.reviewer, decision
    return merged


def _check(decision: Decision, picture: PictureFindings, where: str) -> None:
    """Raise UserError if a decision cannot be carried out."""
    if len(decision.instructions) != len(picture.requests):
        raise UserError(
            f"{where} has {len(decision.instructions)} instructions for {len(picture.requests)}"
            " samples; review it again."
        )
    if any(not text.strip() for text in decision.instructions):
        raise UserError(f"{where} has an empty instruction; write one, or drop the picture.")
    if (decision.action == "redact") != bool(decision.boxes):
        raise UserError(f"{where}: boxes belong to redact, and to that only; review it again.")
    for box in decision.boxes:
        if not (box.x0 < box.x1 <= picture.width and box.y0 < box.y1 <= picture.height):
            raise UserError(f"{where} has a box outside of the picture; review it again.")
    known = {one.digest for one in picture.look_alikes}
    if decision.action == "replace" and decision.look_alike not in known:
        raise UserError(f"{where} names no look-alike that the scan found; review it again.")
    if decision.action != "replace" and decision.look_alike is not None:
        raise UserError(f"{where}: a look-alike belongs to replace only; review it again.")
