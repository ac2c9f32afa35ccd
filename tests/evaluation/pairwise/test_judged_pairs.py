"""Published layouts of judged pairs as lists; other tables: test_judged_tables.py."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.judged_pairs import draw_pairs, read_judged_pairs
from tests.evaluation.toy import picture, png

PICTURES = ("s.png", "x/1.png", "x/2.png")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x").mkdir()
    for name in PICTURES:
        (tmp_path / name).write_bytes(png(picture(name)))
    return tmp_path


def write(folder, *rows, name="metadata.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def vcreward(**changes):
    return {
        "key": "k1",
        "task": "subject_add",
        "instruction": "add a hat",
        "source_image": "s.png",
        "edited_images": ["x/1.png", "x/2.png"],
        "winner": "Image B",
    } | changes


def quality(**changes):
    return {
        "key": "k1",
        "instruction": "add a hat",
        "source_image_path": "s.png",
        "edited_image_paths": ["x/1.png", "x/2.png"],
        "winner": "Image A",
    } | changes


def tiger(**changes):
    return {
        "id": "7_abc",
        "instruction": "add a hat",
        "source_image": "s.png",
        "candidate_1": "x/1.png",
        "candidate_2": "x/2.png",
        "ranking": "A>B",
        "dataset": "2pair",
    } | changes


def test_vcreward_bench(folder):
    write(folder, vcreward(), vcreward(key="k2", winner="Tie"))
    one, two = read_judged_pairs(str(folder))
    assert (one.key, one.task, one.instruction) == ("k1", "subject_add", "add a hat")
    assert (one.dimension, one.preferred, two.preferred) == ("visual_consistency", "second", "tie")
    read = [one.source(), one.first(), one.second()]
    assert read == [(folder / name).read_bytes() for name in PICTURES]


def test_the_list_about_visual_quality(folder):
    (one,) = read_judged_pairs(write(folder, quality(), name="editreward_quality.jsonl"))
    assert (one.dimension, one.preferred, one.task) == ("visual_quality", "first", "")
    assert one.second() == (folder / "x/2.png").read_bytes()


@pytest.mark.parametrize(
    ("comparison", "ranking", "preferred"),
    [
        ("AvsB", "A>B", "first"),
        ("AvsB", "B>A", "second"),
        ("AvsB", "A<B", "second"),
        ("AvsB", "A=B", "tie"),
        ("AvsB", "A=B=Bad", "tie"),
        ("BvsC", "C>B", "second"),
        ("BvsD", "B>D", "first"),
        (None, "B>A", "second"),
    ],
)
def test_rankings_of_editreward_bench(folder, comparison, ranking, preferred):
    row = tiger(ranking=ranking) | ({"comparison_type": comparison} if comparison else {})
    (one,) = read_judged_pairs(write(folder, row))
    assert (one.dimension, one.preferred) == ("overall", preferred)


def test_comparisons_of_one_id_are_different_pairs(folder):
    rows = [tiger(comparison_type=c, ranking=f"{c[0]}>{c[3]}") for c in ("AvsB", "AvsC", "BvsC")]
    pairs = read_judged_pairs(write(folder, *rows))
    assert len({pair.key for pair in pairs}) == 3


def test_a_pair_that_was_judged_again_stays(folder):
    pairs = read_judged_pairs(write(folder, vcreward(), vcreward(winner="Image A")))
    assert [pair.key for pair in pairs] == ["k1", "k1 2"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (vcreward(winner="Image C"), "names no dimension and winner"),
        (vcreward(winner=None), "names no dimension and winner"),
        (vcreward(key=""), "its key is ''"),
        (vcreward(instruction=3), "its instruction is 3"),
        (vcreward(edited_images=["x/1.png"]), "no list with picture 2"),
        (vcreward(edited_images="x/1.png"), "no list with picture 1"),
        (vcreward(edited_images=["x/1.png", None]), "not the path of a picture"),
        (vcreward(edited_images=["x/1.png", "../2.png"]), "outside of the data set's folder"),
        (quality(source_image_path="s3://bucket/s.png"), "outside of the data set's folder"),
        (tiger(comparison_type="AvsC", ranking="A>B"), "names no dimension and winner"),
        (tiger(ranking="better"), "names no dimension and winner"),
        ({"key": "k", "instruction": "i"}, "no data set of judged pairs that is known"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(folder, row, words):
    with pytest.raises(UserError, match=words):
        read_judged_pairs(write(folder, row))


def test_dimensions_are_chosen(folder):
    path = write(folder, vcreward())
    assert len(read_judged_pairs(path, ["visual_consistency"])) == 1
    with pytest.raises(UserError, match="judged in visual_consistency, not in visual_quality"):
        read_judged_pairs(path, ["visual_quality"])


def test_some_pairs_are_drawn_in_their_order(folder):
    pairs = read_judged_pairs(write(folder, *(vcreward(key=f"k{i}") for i in range(200))))
    drawn = draw_pairs(pairs, 50)
    assert len(drawn) == 50
    assert drawn == [pair for pair in pairs if pair in drawn]
    assert drawn != pairs[:50]
    assert set(map(id, draw_pairs(pairs[::-1], 50))) == set(map(id, drawn))
    assert draw_pairs(pairs, None) == pairs
