"""From photographs to judged edits: plans of a scripted server, made by an editor."""

import dataclasses
import hashlib

import pytest

from step1x_jax.curation.chat.plan_edits import PlanEdits
from step1x_jax.curation.chat.verdict import Verdict
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.engine.ray_actors import ray_engine
from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.operators.limits import Limits
from step1x_jax.curation.operators.own_editor import OwnEditor
from step1x_jax.curation.results import Results
from step1x_jax.overrides import override
from tests.asking.chat_server import serving
from tests.curation.chat.asking import QUICK, as_reply, schema_of
from tests.curation.operators.test_own_editor import Maker
from tests.curation.tiny_edits import Noise
from tests.curation.toys import drive

pytestmark = pytest.mark.parquet
COUNT = 4  # photographs


def script(request):
    """Two edits of each photograph; a verdict that depends on the pictures alone."""
    if "edits" in schema_of(request)["properties"]:
        names = ("color_alter", "tone_transfer")
        edits = [{"category": n, "instruction": f"Do {n}", "target": f"{n} done"} for n in names]
        return as_reply({"edits": edits})
    digest = hashlib.sha256(request.pictures[1].encode()).digest()
    return as_reply(
        {
            "done": True,
            "unchanged": "all",
            "faults": [],
            "reason": "It is done.",
            "success": 5 + digest[0] % 6,
            "quality": 10,
        }
    )


def pipeline_with(server, **limits):
    config = override(
        CurateConfig(source=Noise(count=COUNT)),
        {
            "stages": {
                "plan": PlanEdits(endpoint=server.url, **QUICK),
                "edit": OwnEditor(model="mine", count=2, gpus=0.0),
                "verdict": Verdict(endpoint=server.url, **QUICK),
                "limits": Limits(**limits),
            }
        },
    )
    config.validate()
    config.stages["edit"].use(Maker())
    return config.pipeline()


def edits(pipeline, folder):
    columns = {"category": str, "instruction_en": str, "verdict_success": float, "target": bytes}
    rows = Results(pipeline, Workdir(folder)).all(columns)
    return [row for row in rows if row["target"]]


def test_plans_become_judged_edits(tmp_path):
    with serving(script) as server:
        pipeline = pipeline_with(server)
        first = drive(pipeline, tmp_path)
        rows = edits(pipeline, tmp_path)
        assert len(rows) == COUNT * 2 * 2  # plans, candidates
        assert {row["instruction_en"] for row in rows} == {"Do color_alter", "Do tone_transfer"}
        assert len({row["target"] for row in rows}) == len(rows)
        good = [row["verdict_success"] >= 7 for row in rows]
        assert 0 < sum(good) < len(rows)
        assert [row["reason"] for row in rows] == [
            "" if one else "low_verdict_success" for one in good
        ]
        asked = len(server.questions)
        assert asked == COUNT + len(rows)
        parts = Workdir(tmp_path).parts("verdict").values()
        assert sum(part.calls for part in parts) == len(rows)

        # parts that are lost are made of kept replies
        for name in ("plan", "verdict"):
            for part in (tmp_path / "stages" / name).iterdir():
                part.unlink()
        assert drive(pipeline, tmp_path) == first
        # another limit asks nothing, and moves the line
        strict = pipeline_with(server, success=9.0)
        assert drive(strict, tmp_path) != first
        left = [row for row in edits(strict, tmp_path) if not row["reason"]]
        assert len(left) == sum(row["verdict_success"] >= 9 for row in rows)
        assert len(server.questions) == asked


@pytest.mark.curation
def test_the_same_on_ray(tmp_path):
    with serving(script) as server:
        pipeline = pipeline_with(server)
        inline = drive(pipeline, tmp_path / "inline")
        asked = len(server.questions)
        with ray_engine(actors=2) as engine:
            assert drive(pipeline, tmp_path / "ray", engine) == inline
        assert len(server.questions) == 2 * asked


def test_a_server_that_is_down_ends_the_run_and_keeps_what_there_is(tmp_path):
    with serving(script) as server:
        pipeline = pipeline_with(server)
        whole = drive(pipeline, tmp_path / "whole")
        dead = pipeline_with(dataclasses.replace(server, url="http://127.0.0.1:9/v1"))
        with pytest.raises(StopError, match=r"plan failed for .* NoReply"):
            drive(dead, tmp_path / "run")
        assert drive(pipeline, tmp_path / "run") == whole
