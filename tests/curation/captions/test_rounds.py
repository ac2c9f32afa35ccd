"""What is kept of several rounds, by hand."""

import numpy as np
import pytest

from step1x_jax.curation.captions.examples import draw_examples, read_bank
from step1x_jax.curation.captions.prompts import prompts_digest, round_text, write_text
from step1x_jax.curation.captions.rounds import Annotation, Claim, RoundReply
from step1x_jax.curation.categories import Category
from step1x_jax.curation.filters.language import check_languages
from step1x_jax.errors import UserError


def test_what_rounds_hold():
    """a stays all along; b is not confirmed; c comes later and is confirmed; d comes last."""
    annotation = Annotation()
    annotation.add(RoundReply((), ("a", "b")))
    assert annotation.latest == ("a", "b")
    annotation.add(RoundReply((1,), ("c",)))
    assert annotation.latest == ("a", "c")
    annotation.add(RoundReply((2, 1, 1), ("d  d",)))
    assert annotation.latest == ("a", "c", "d d")
    assert annotation.kept(2) == [Claim("a", 3), Claim("c", 2)]
    assert annotation.kept(3) == [Claim("a", 3)]
    assert [claim.text for claim in annotation.kept(1)] == ["a", "b", "c", "d d"]


def test_what_is_stated_again_is_held():
    annotation = Annotation()
    annotation.add(RoundReply((), ("a",)))
    annotation.add(RoundReply((1,), ("a",)))  # confirmed and stated: one round
    assert annotation.kept(1) == [Claim("a", 2)]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (RoundReply((1, 2), ("x",)), None),
        (RoundReply((), ()), None),
        (RoundReply((3,), ()), "confirms what it was not given"),
        (RoundReply((0,), ()), "confirms what it was not given"),
        (RoundReply((), ("x",) * 13), "too many"),
        (RoundReply((), (" ",)), "empty"),
        (RoundReply((), ("x" * 301,)), "too long"),
    ],
)
def test_replies_that_are_none(reply, problem):
    found = reply.problem(2)
    assert found is None if problem is None else problem in found


def test_the_bank_is_in_its_languages():
    bank = read_bank()
    assert set(bank) == set(Category)
    for texts in bank.values():
        assert set(texts) == {"en", "cn"}
        assert len(texts["en"]) == len(texts["cn"]) == 6
        assert len(set(texts["en"]) | set(texts["cn"])) == 12
        for english, chinese in zip(texts["en"], texts["cn"], strict=True):
            row = {"instruction_en": english, "instruction_cn": chinese}
            assert check_languages(row) is None, row


def test_examples_are_drawn_by_chance():
    drawn = draw_examples("text_change", 3, np.random.default_rng(0))
    assert drawn == draw_examples("text_change", 3, np.random.default_rng(0))
    assert drawn != draw_examples("text_change", 3, np.random.default_rng(1))
    for language, texts in drawn.items():
        assert len(set(texts)) == 3
        assert set(texts) <= set(read_bank()[Category.TEXT_CHANGE][language])
    assert draw_examples("text_change", 0, np.random.default_rng(0)) == {"cn": (), "en": ()}
    with pytest.raises(UserError, match="no category"):
        draw_examples("dance", 1, np.random.default_rng(0))
    with pytest.raises(UserError, match="has 6"):
        draw_examples("ps_human", 7, np.random.default_rng(0))


def test_questions_hold_what_they_should():
    first = round_text("ps_human", ())
    assert "{" not in first.replace('{"confirmed"', "")
    following = round_text("ps_human", ("it is {most}", "b"))
    assert "1. it is {most}\n2. b" in following  # what a model says is no place to fill
    text = write_text("ps_human", ["c"], {"en": ("do x",), "cn": ("做",)})
    assert "1. c" in text
    assert "- do x\n- 做" in text
    assert len({first, following, text}) == 3
    assert len(prompts_digest()) == 64
