import dataclasses
import os

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import BENCHMARKS, GEDIT, IMGEDIT, JudgeQuestion
from step1x_jax.evaluation.judging.prompts import (
    CRITERIA,
    FOLDER,
    read_literals,
    read_prompts,
)

SEMANTICS, QUALITY = GEDIT.questions
PUBLISHED = '''
"""docstring"""
import os
os.environ["EXECUTED"] = "yes"
_context_no_delimit = """You judge.
{"score": []}"""
_prompts_0shot_two_image_edit_rule = _also = ("RULES: " "two pictures\\n")
_prompts_0shot_tie_rule_SC = """
Editing instruction: <instruction>
"""
_prompts_0shot_rule_PQ: str = "annotated, so no plain assignment"
_prompts_0shot_rule_PQ = "RULES: one"
_joined = _context_no_delimit + "x"
_formatted = f"{_context_no_delimit}"
'''


def test_our_words_ask_for_what_counts():
    for benchmark in (GEDIT, IMGEDIT):
        prompts = read_prompts(benchmark)
        for question in benchmark.questions:
            for task in question.criteria or ("any",):
                text = prompts.text(question, task, "Replace {instruction} by <instruction>")
                shows_source = "source" in question.pictures
                assert text.count("Replace {instruction} by <instruction>") == shows_source
                assert CRITERIA not in text
                assert "\n\n\n" not in text
                assert '{"score": [' in text
                assert f"from {question.lowest} " in text
                assert f"to {question.highest}" in text
                assert text.count("\n1. ") == 1
                assert f"\n{question.numbers}. " in text
                assert f"\n{question.numbers + 1}. " not in text


def test_every_question_has_its_files():
    used = {question.prompt for b in BENCHMARKS.values() for question in b.questions}
    used |= {f for b in BENCHMARKS.values() for q in b.questions for f in q.criteria.values()}
    assert used <= {path.stem for path in FOLDER.glob("*.txt")}


def test_tasks_have_criteria_of_their_own_and_others_are_refused():
    prompts, (question,) = read_prompts(IMGEDIT), IMGEDIT.questions
    texts = {task: prompts.text(question, task, "x") for task in question.criteria}
    assert len({*texts.values()}) == 9
    assert texts["alter"] == texts["adjust"]
    with pytest.raises(UserError, match="no criteria for the task 'hybrid'"):
        prompts.text(question, "hybrid", "x")


def test_published_words_are_read_and_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.delenv("EXECUTED", raising=False)
    file = tmp_path / "vie_prompts.py"
    file.write_text(PUBLISHED)
    prompts = read_prompts(GEDIT, file)
    # joined by newlines, as the published harness does
    assert prompts.text(SEMANTICS, "any", "make it {instruction}") == (
        'You judge.\n{"score": []}\nRULES: two pictures\n\n\n'
        "Editing instruction: make it {instruction}\n"
    )
    assert prompts.text(QUALITY, "any", "unused") == 'You judge.\n{"score": []}\nRULES: one'
    assert prompts.source == "vie_prompts.py"
    assert {*read_literals(file)} == {
        "_context_no_delimit",
        "_prompts_0shot_two_image_edit_rule",
        "_also",
        "_prompts_0shot_tie_rule_SC",
        "_prompts_0shot_rule_PQ",
    }
    assert "EXECUTED" not in os.environ


def test_files_that_are_none_are_one_sentence(tmp_path):
    file = tmp_path / "vie_prompts.py"
    for data, words in (
        (b"x = (", "no Python file"),
        (b"\0", "no Python file"),
        (b"x = " + b"(" * 5000, "no Python file"),
        (b"_context_no_delimit = 'a'", "no literal text to _prompts_0shot_two_image_edit_rule"),
        (b"_context_no_delimit = b'a'", "no literal text to _context_no_delimit"),
        (b"#" * (2 << 20), "MiB"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=words):
            read_prompts(GEDIT, file)
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(GEDIT, tmp_path / "none.py")
    with pytest.raises(UserError, match="--prompt_file is of gedit"):
        read_prompts(IMGEDIT, file)


def test_the_fingerprint_is_of_the_words(tmp_path):
    file = tmp_path / "vie_prompts.py"
    file.write_text(PUBLISHED)
    first = read_prompts(GEDIT, file)
    (tmp_path / "other.py").write_text(PUBLISHED + "\nunused = 'x'\n")
    assert read_prompts(GEDIT, tmp_path / "other.py").fingerprint == first.fingerprint
    file.write_text(PUBLISHED.replace("RULES: one", "RULES: two"))
    fingerprints = {first.fingerprint, read_prompts(GEDIT, file).fingerprint}
    fingerprints |= {read_prompts(GEDIT).fingerprint, read_prompts(IMGEDIT).fingerprint}
    assert len(fingerprints) == 4
    assert all(len(one) == 12 for one in fingerprints)


def test_our_words_are_not_the_published_ones():
    for path in FOLDER.glob("*.txt"):
        text = path.read_text()
        for phrase in ("professional digital artist", "overediting", "data rater", "From scale"):
            assert phrase not in text


def test_other_columns_have_their_place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text('{instruction} because {explain}; {"score": [{a b}]}\n')
    monkeypatch.setattr("step1x_jax.evaluation.judging.prompts.FOLDER", tmp_path)
    question = JudgeQuestion("own", ("edited",), "own", numbers=1, highest=5)
    benchmark = dataclasses.replace(GEDIT, questions=(question,))
    prompts = read_prompts(benchmark)
    extra = {"explain": "{instruction}", "unused": "x"}
    assert prompts.text(question, "t", "cut {explain}", extra) == (
        'cut {explain} because {instruction}; {"score": [{a b}]}\n'
    )
    with pytest.raises(UserError, match="needs the column explain"):
        prompts.text(question, "t", "cut")
