"""speeds.json beside a model."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import SamplingPlan
from step1x_jax.sampling.stored_plans import FILE, read_plans, write_plans

PLAN = SamplingPlan(5, (0, 2, 4), (0, 4), 0)


def test_plans_are_stored_by_name(tmp_path):
    assert read_plans(tmp_path) == {}
    assert write_plans(tmp_path, {"fast": PLAN}) == tmp_path / FILE
    assert read_plans(tmp_path) == {"fast": PLAN}


VALUES = {"num_steps": 5, "computed": [0, 2, 4], "unconditional": [0, 4], "order": 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"fast": {', "is not valid JSON"),
        ("[]", "should hold a JSON object"),
        (json.dumps({"exact": VALUES}), "'exact' is no speed; plans are stored for balanced and"),
        (json.dumps({"fast": 3}), "fast is 3"),
        (json.dumps({"fast": VALUES | {"more": 1}}), "unknown field fast.more"),
        (json.dumps({"fast": VALUES | {"computed": [0, 7]}}), "fast: computed has step 7, and"),
        (json.dumps({"fast": VALUES | {"computed": ["x"]}}), "computed"),
        (json.dumps({"fast": {"num_steps": 5}}), "missing required field computed"),
    ],
)
def test_what_is_damaged_is_one_sentence(tmp_path, text, reason):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_plans(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
