"""The shipped list of what the quickstart's model knows."""

import json

import pytest

from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.editing.known_edits import read_known_edits
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.errors import UserError


def test_the_list_is_what_the_model_was_trained_with():
    edits = [[*wordings["en"], *wordings["cn"]] for wordings in PLAIN_TEMPLATES.values()]
    assert read_known_edits(QUICKSTART) == edits


def test_a_folder_may_say_nothing_and_a_damaged_list_is_refused(tmp_path):
    assert read_known_edits(tmp_path) == ()
    for values in ({}, {"edits": ["night"]}, {"edits": [[1]]}):
        (tmp_path / "edits.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"edits\.json: edits"):
            read_known_edits(tmp_path)
