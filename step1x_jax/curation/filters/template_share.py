"""A cap on the share of one template's instructions: a set must not sound like one sentence."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

# Of a category's rows in one language. Every action has at least five wordings; one that is drawn
# by chance stays far below.
MOST_SHARE = 0.25
LEAST_ROWS = 20  # of a category: of fewer, one template's share says nothing


def find_excess(rows: Sequence[Mapping[str, str]], most_share: float = MOST_SHARE) -> set[str]:
    """Ids of rows to reject so that no template has more than its share of what is left.

    Args:
      rows: of one category, each with "id" and "template", the name of the wording in one language.
      most_share: of the rows that are left.

    Returns:
      Which ids: of the templates that are too frequent, those whose ids' digests are largest, so
      that the choice does not follow the order of making.
    """
    if len(rows) < LEAST_ROWS:
        return set()
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["template"]].append(row["id"])
    if len(groups) * most_share < 1:  # so few wordings cannot keep to it
        raise ValueError(f"{len(groups)} templates cannot each have at most {most_share:.0%}")
    kept = {name: sorted(ids, key=_digest) for name, ids in groups.items()}
    excess: set[str] = set()
    while True:
        total = sum(map(len, kept.values()))
        name = max(kept, key=lambda n: (len(kept[n]), n))
        if len(kept[name]) <= max(most_share * total, 1):
            return excess
        excess.add(kept[name].pop())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
