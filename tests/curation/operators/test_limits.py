"""Limits of scores: each counts, and what a row does not have counts as none."""

import pytest

from step1x_jax.curation.engine.rows import Rejected
from step1x_jax.curation.operators.limits import Limits
from tests.curation.operators.tiny import CONTEXT

FINE = {
    "id": "a",
    "clip_image": 0.5,
    "clip_direction": None,
    "aesthetics": 4.5,
    "verdict_success": 6.0,
    "verdict_quality": 5.0,
    "nsfw": 0.3,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        (dict.fromkeys(Limits.reads), ""),
        ({"clip_image": 0.4}, "low_clip_image"),
        ({"clip_direction": 0.0}, "low_clip_direction"),
        ({"aesthetics": 3.9}, "low_aesthetics"),
        ({"verdict_success": 5.0}, "low_verdict_success"),
        ({"verdict_quality": 4.0}, "low_verdict_quality"),
        ({"nsfw": 0.31}, "high_nsfw"),
        ({"nsfw": 0.0}, ""),
    ],
)
def test_limits(change, reason):
    stage = Limits(image=0.5, direction=0.1, aesthetics=4.0, success=6.0, quality=5.0, nsfw=0.3)
    (made,) = stage.open()([FINE | change], CONTEXT)
    assert (made.reason if isinstance(made, Rejected) else "") == reason
