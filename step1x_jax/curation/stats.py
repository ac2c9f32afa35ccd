"""Figures of a run: what each stage left of each category, and why the rest was left out."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

from step1x_jax.curation.categories import Category
from step1x_jax.curation.engine.driver import Pipeline
from step1x_jax.curation.engine.rows import FAILED, OK
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.public_sets import PUBLIC_SETS
from step1x_jax.curation.results import Results, groups_of

PAPER_RETENTION = 20  # edits made for one that is kept: over 20 million for about one
NO_CATEGORY = ""  # rows that were left out before they had one


def count(pipeline: Pipeline, workdir: Workdir) -> dict[str, Any]:
    """Count what a run that is done made.

    Returns:
      As JSON: `categories`, by name `accepted`, `sources` (photographs with an accepted edit),
      `rejected` (by reason) and `left` (rows after each stage that knows the category);
      `uncategorised`, reasons of rows that had no category; `stages`, of each its rows, reasons,
      calls of models and seconds of work; `retention`.

    Raises:
      UserError: the run is not done.
    """
    results = Results(pipeline, workdir)
    ends: dict[str, collections.Counter[tuple[str, str]]] = collections.defaultdict(
        collections.Counter
    )
    sources: dict[str, set[str]] = collections.defaultdict(set)
    columns = {"category": str, "group": str, "groups": list[str]}
    for row in results.all(columns):
        category = row["category"] or NO_CATEGORY
        reason = f"{FAILED}: {row['reason']}" if row["status"] == FAILED else row["reason"]
        ends[category][row["stage"], reason] += 1
        if row["status"] == OK:
            sources[category] |= set(groups_of(row)[:1])
    stages = list(_counted_stages(pipeline, workdir))
    knowing = _knowing(pipeline)
    names = [str(category) for category in Category]
    names += sorted(set(ends) - {*names, NO_CATEGORY})
    categories: dict[str, dict[str, Any]] = {
        name: {
            "accepted": ends[name]["", ""],
            "sources": len(sources[name]),
            "rejected": _by_reason(ends[name]),
            "left": _left(ends[name], knowing),
        }
        for name in names
    }
    made = sum(ends[name].total() for name in names)
    kept = sum(one["accepted"] for one in categories.values())
    return {
        "categories": categories,
        "uncategorised": _by_reason(ends[NO_CATEGORY]),
        "stages": stages,
        "retention": {
            "made": made,
            "accepted": kept,
            "made_per_accepted": round(made / kept, 2) if kept else None,
            "paper_made_per_accepted": PAPER_RETENTION,
        },
    }


def _by_reason(ends: Mapping[tuple[str, str], int]) -> dict[str, int]:
    reasons: collections.Counter[str] = collections.Counter()
    for (stage, reason), number in ends.items():
        if stage:
            reasons[reason] += number
    return dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0])))


def _knowing(pipeline: Pipeline) -> list[str]:
    """The stages in which rows have a category: from the first that writes it."""
    names = list(pipeline.named)
    writing = [i for i, stage in enumerate(pipeline.named.values()) if "category" in stage.writes]
    return names[min(writing) :] if writing else []


def _left(ends: Mapping[tuple[str, str], int], stages: list[str]) -> dict[str, int]:
    left = sum(ends.values())
    funnel = {}
    for name in stages:
        left -= sum(number for (stage, _), number in ends.items() if stage == name)
        funnel[name] = left
    return funnel


def _counted_stages(pipeline: Pipeline, workdir: Workdir) -> Iterator[dict[str, Any]]:
    for name in pipeline.named:
        parts = workdir.parts(name).values()
        rejected: collections.Counter[str] = collections.Counter()
        failed: collections.Counter[str] = collections.Counter()
        for part in parts:
            rejected.update(part.rejected)
            failed.update(part.failed)
        worked = sum(part.worked for part in parts)
        yield {
            "name": name,
            "parts": len(parts),
            "rows": worked,
            "rejected": dict(rejected.most_common()),
            "failed": dict(failed.most_common()),
            "calls": sum(part.calls for part in parts),
            "seconds": round(sum(part.seconds for part in parts), 1),
        }


def table(counted: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `count` as lines of text, with public sets beside them."""
    yield f"{'category':18} {'made':>7} {'accepted':>9} {'sources':>8}  left out"
    for name, one in counted["categories"].items():
        made = one["accepted"] + sum(one["rejected"].values())
        reasons = ", ".join(f"{reason} {number}" for reason, number in one["rejected"].items())
        yield f"{name:18} {made:7} {one['accepted']:9} {one['sources']:8}  {reasons}".rstrip()
    if counted["uncategorised"]:
        reasons = ", ".join(f"{r} {number}" for r, number in counted["uncategorised"].items())
        yield f"before there was a category: {reasons}"
    yield ""
    heads = ("parts", 7), ("rows", 9), ("left out", 9), ("failed", 7), ("calls", 7), ("seconds", 8)
    yield " ".join([f"{'stage':18}", *(f"{head:>{width}}" for head, width in heads)])
    for stage in counted["stages"]:
        out, failed = (sum(stage[kind].values()) for kind in ("rejected", "failed"))
        yield (
            f"{stage['name']:18} {stage['parts']:7} {stage['rows']:9} {out:9} {failed:7}"
            f" {stage['calls']:7} {stage['seconds']:8}"
        )
    retention = counted["retention"]
    yield ""
    yield (
        f"{retention['made']} made, {retention['accepted']} accepted:"
        f" {retention['made_per_accepted']}:1; the paper's is"
        f" {retention['paper_made_per_accepted']}:1 (arXiv 2504.17761)"
    )
    yield ""
    yield f"{'public set':18} {'edits':>10} {'categories':>10}  from"
    for one in PUBLIC_SETS:
        kinds = str(one.categories or "open")
        note = f", {one.note}" if one.note else ""
        yield f"{one.name:18} {one.edits:10} {kinds:>10}  arXiv {one.paper}{note}"
