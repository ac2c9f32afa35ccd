"""The official harness's tables, in and out."""

import csv
import math

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.judgement_files import judge_folder, read_judgements
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.score_csv import (
    find_backbones,
    import_score_csv,
    read_score_csv,
    write_score_csv,
)
from step1x_jax.evaluation.statistics import score_samples, summarize
from tests.evaluation.scores import drawn, judgement, without

# As the published scripts write their headers.
APRIL = (
    "source_image,edited_image,instruction,sementics_score,quality_score,intersection_exist,"
    "instruction_language\n"
)
JULY = (
    "key,edited_image,instruction,sementics_score,quality_score,intersection_exist,"
    "instruction_language\n"
)


def put(root, name, text):
    path = root / "mine/gpt4o" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(root):
    return {one.id: one for one in read_score_csv(root, "mine", "gpt4o")}


def official_averages(root, file_of, language):
    """The published rule: O of each row's minima, mean by file, mean of the files."""
    means = []
    for task in GEDIT.tasks:
        with (root / "mine/judge" / file_of(task)).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["instruction_language"] == language]
        scores = [math.sqrt(float(r["sementics_score"]) * float(r["quality_score"])) for r in rows]
        means.append(sum(scores) / len(scores))
    return sum(means) / len(means)


def test_what_is_written_gives_the_official_script_our_averages(tmp_path):
    judgements = [*drawn(0, repeats=2), without("ps_human", "refused", "x")]
    write_score_csv(tmp_path, "mine", "judge", judgements)
    firsts = [one for one in judgements if one.repeat == 0]
    for language in GEDIT.languages:
        scored = [one for one in score_samples(firsts, GEDIT) if one.id.language == language]
        ours = summarize(scored, GEDIT).average.means["O"]
        for file_of in (
            lambda task: f"mine_{task}_all_vie_score.csv",
            lambda task: f"eval_results_new/mine_{task}_gpt_score.csv",
        ):
            assert official_averages(tmp_path, file_of, language) == pytest.approx(ours, abs=1e-12)


def test_what_is_written_is_read(tmp_path):
    judgements = [one for one in drawn(1) if one.id.task != "ps_human"]
    judgements.append(judgement("ps_human", [8.5, 9], [7, 10], "k", "cn", intersection=False))
    write_score_csv(tmp_path, "mine", "gpt4o", judgements)
    expected = {
        one.id: (min(one.scores["semantics"]), min(one.scores["quality"]), one.intersection)
        for one in judgements
    }
    for gone in (None, "*_all_vie_score.csv"):  # then April's form alone is left
        for path in (tmp_path / "mine/gpt4o").glob(gone) if gone else ():
            path.unlink()
        assert find_backbones(tmp_path, "mine") == ["gpt4o"]
        found = {
            sample: (one.scores["semantics"][0], one.scores["quality"][0], one.intersection)
            for sample, one in read(tmp_path).items()
        }
        assert found == expected


def test_published_columns_of_april(tmp_path):
    put(
        tmp_path,
        "eval_results_new/mine_text_change_gpt_score.csv",
        APRIL + "/x/fullset/text_change/zh/0ab1_SRCIMG.png,e.png,把字改成：“好”,7.0,8,True,zh\n"
        'fullset/text_change/en/0ab1_SRCIMG.png,e.png,"say ""hi"", twice",0,8.5,,en\n',
    )
    found = read(tmp_path)
    assert found[SampleId("text_change", "cn", "0ab1")].scores == {
        "semantics": (7.0,), "quality": (8.0,),
    }  # fmt: skip
    one = found[SampleId("text_change", "en", "0ab1")]
    assert one.scores == {"semantics": (0.0,), "quality": (8.5,)}
    assert one.intersection is True  # a blank cell counts as inside


def test_published_columns_of_mid_2025_by_language(tmp_path):
    for language in ("en", "cn"):
        put(
            tmp_path,
            f"mine_ps_human_{language}_vie_score.csv",
            JULY + f"k,e.png,x,3,4,False,{language}\n",
        )
    put(tmp_path, "eval_results_new/mine_ps_human_gpt_score.csv", APRIL)
    found = read(tmp_path)
    assert set(found) == {SampleId("ps_human", language, "k") for language in ("en", "cn")}
    assert {one.intersection for one in found.values()} == {False}


@pytest.mark.parametrize(
    ("cells", "status"),
    [("nan,5", "failed"), (",5", "failed"), ("5,11", "unparsable"), ("-1,5", "unparsable"),
     ("inf,5", "unparsable"), ("five,5", "unparsable"), ("10,0", "ok")],
)  # fmt: skip
def test_scores_that_are_none_are_counted_not_taken(tmp_path, cells, status):
    put(tmp_path, "mine_ps_human_all_vie_score.csv", JULY + f"k,e.png,x,{cells},True,en\n")
    (one,) = read(tmp_path).values()
    assert one.status == status
    assert bool(one.scores) == (status == "ok")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (JULY + "k,e,x,1,1,True,fr\n", "line 2: key is 'k' and instruction_language 'fr'"),
        (JULY + "../k:,e,x,1,1,True,en\n", "line 2: key is"),
        (JULY + "k,e,x,1,1,maybe,en\n", "intersection_exist is 'maybe'"),
        (JULY + "k,e,x,1,1,True,en\nk,e,x,1,1,True,en\n", "second row of ps_human/en/k"),
        (JULY.replace("quality_score", "quality"), "without quality_score"),
        ("", r"has the columns \(none\), without key"),
        (JULY + "k,e\n", "instruction_language None"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, word):
    put(tmp_path, "mine_ps_human_all_vie_score.csv", text)
    with pytest.raises(UserError, match=word):
        read(tmp_path)


def test_importing_twice_changes_nothing_and_other_scores_are_not_replaced(tmp_path):
    root, folder = tmp_path / "tables", tmp_path / "results/mine"
    write_score_csv(root, "mine", "gpt4o", drawn(0))
    assert import_score_csv(root, "mine", folder) == ["gpt4o"]
    judgements, facts = read_judgements(judge_folder(folder, "gpt4o"))
    assert judgements == read_score_csv(root, "mine", "gpt4o")
    assert facts["judge"] == "gpt4o"
    assert import_score_csv(root, "mine", folder) == ["gpt4o"]
    write_score_csv(root, "mine", "gpt4o", drawn(1))
    with pytest.raises(UserError, match="has other judgements"):
        import_score_csv(root, "mine", folder)
    assert read_judgements(judge_folder(folder, "gpt4o"))[0] == judgements
    with pytest.raises(UserError, match="no tables of scores of other"):
        import_score_csv(root, "other", folder)
    with pytest.raises(UserError, match=r"has no mine_TASK_all_vie_score\.csv"):
        read_score_csv(root, "mine", "qwen25vl")
