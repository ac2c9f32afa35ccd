"""Who rates what: each sample equally often, each participant some of every task."""

from collections import defaultdict
from collections.abc import Sequence

from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.study.secret import Secret

MOST_PARTICIPANTS = 1000


def deal_samples(
    ids: Sequence[SampleId], participants: int, each: int, secret: Secret
) -> list[list[SampleId]]:
    """Deal samples over participants.

    The samples are put in a circle in which every task (of a language) is spread evenly, in random
    order; a participant takes the next `each` of it. So the numbers of people who rate a sample
    differ by at most one, as do the numbers of samples of a task that participants get, but for
    rounding.

    Args:
      ids: the samples, all different.
      participants: how many people take part.
      each: samples that each of them rates; 0 is all of them.
      secret: of the study.

    Returns:
      The samples of each participant, in the order in which they are shown.

    Raises:
      UserError: there are fewer samples than each is to rate, or some would be rated by nobody.
    """
    each = each or len(ids)
    if not 1 <= participants <= MOST_PARTICIPANTS:
        raise UserError(f"--participants={participants}: give 1 to {MOST_PARTICIPANTS}.")
    if each > len(ids):
        raise UserError(
            f"--samples_each={each}, and there are {len(ids)} samples; give at most so many."
        )
    if participants * each < len(ids):
        raise UserError(
            f"{participants} participants with {each} samples each leave some of {len(ids)} samples"
            " unrated; take more of either, or fewer samples (--limit)."
        )
    circle = _spread(ids, secret)
    hands = [
        [circle[(number * each + i) % len(circle)] for i in range(each)]
        for number in range(participants)
    ]
    return [secret.shuffled(hand, "order", str(number)) for number, hand in enumerate(hands)]


def _spread(ids: Sequence[SampleId], secret: Secret) -> list[SampleId]:
    """Order all samples so that those of a task are at even distances."""
    groups: dict[tuple[str, str], list[SampleId]] = defaultdict(list)
    for id in ids:
        groups[id.language, id.task].append(id)
    places: list[tuple[float, SampleId]] = []
    for group, members in groups.items():
        offset = secret.fraction("offset", *group)
        shuffled = secret.shuffled(members, "circle")
        places += [((i + offset) / len(members), id) for i, id in enumerate(shuffled)]
    return [id for _, id in sorted(places)]
