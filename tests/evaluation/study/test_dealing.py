"""Who rates what, and whether names and orders come from the secret alone."""

from collections import Counter

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.study.dealing import deal_samples
from step1x_jax.evaluation.study.secret import Secret

SECRET = Secret(b"1" * 32)


def ids(**tasks):
    return [SampleId(task, "en", f"{i:032x}") for task, n in tasks.items() for i in range(n)]


@pytest.mark.parametrize(("participants", "each"), [(1, 60), (7, 20), (12, 30), (40, 3), (5, 0)])
def test_every_sample_is_rated_equally_often(participants, each):
    samples = ids(color=30, motion=20, text=10)
    hands = deal_samples(samples, participants, each, SECRET)
    assert [len(hand) for hand in hands] == [each or 60] * participants
    assert all(len(set(hand)) == len(hand) for hand in hands)
    counts = Counter(id for hand in hands for id in hand)
    assert set(counts) == set(samples)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_participant_gets_some_of_every_task():
    hands = deal_samples(ids(color=30, motion=20, text=10), 12, 30, SECRET)
    for hand in hands:
        counts = Counter(id.task for id in hand)
        # half of each task; even distances on a circle are off by one at most
        assert abs(counts["color"] - 15) <= 1
        assert abs(counts["motion"] - 10) <= 1
        assert abs(counts["text"] - 5) <= 1


def test_the_order_is_shuffled_and_depends_on_secret_and_participant():
    samples = ids(color=40)
    hands = deal_samples(samples, 2, 0, SECRET)
    assert hands == deal_samples(samples, 2, 0, SECRET)
    assert sorted(hands[0]) == sorted(hands[1]) == sorted(samples)
    assert samples != hands[0] != hands[1] != samples
    assert hands != deal_samples(samples, 2, 0, Secret(b"2" * 32))


@pytest.mark.parametrize(
    ("participants", "each", "message"),
    [
        (0, 3, "1 to 1000"),
        (1001, 3, "1 to 1000"),
        (3, 31, "30 samples; give at most"),
        (3, 9, "leave some of 30 samples unrated"),
    ],
)
def test_what_cannot_be_dealt(participants, each, message):
    with pytest.raises(UserError, match=message):
        deal_samples(ids(color=30), participants, each, SECRET)


def test_names_differ_with_all_that_they_are_about():
    about = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ('a", "b',)]
    assert len({SECRET.name(*words) for words in about}) == len(about)
    assert Secret().name("a") != Secret().name("a")


def test_fractions_are_even():
    fractions = [SECRET.fraction(str(i)) for i in range(4000)]
    counts = Counter(int(10 * fraction) for fraction in fractions)
    # 400 +- 19 each: six standard deviations
    assert all(286 < counts[i] < 514 for i in range(10))
