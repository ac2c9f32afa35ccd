"""Candidates of an editor that is given to the stage: here one that notes what it is asked."""

import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image

from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.operators.own_editor import OwnEditor
from step1x_jax.curation.results import Results
from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from tests.curation.operators.tiny import CONTEXT, decoded, encoded
from tests.curation.tiny_edits import tiny_config
from tests.curation.toys import drive


@dataclasses.dataclass(frozen=True)
class Maker:
    """Its editor adds what depends on seed and instruction."""

    weights: str = "a"

    def identity(self, stage):
        return {"weights": self.weights}

    def load(self, stage):
        def edit(picture, instruction, seed):
            if instruction == "fail":
                raise ValueError("no such edit")
            rng = np.random.default_rng([seed, len(instruction)])
            return Image.fromarray(rng.integers(0, 256, np.asarray(picture).shape, np.uint8))

        return edit


def stage(maker=None, **settings):
    made = OwnEditor(**{"model": "mine"} | settings)
    made.validate()
    made.use(maker or Maker())
    return made


def test_candidates():
    row = {"id": "a", "source": encoded(0), "instruction_en": "do it"}
    operator = stage(count=3).open()
    (made,) = map(list, operator([row], CONTEXT))
    assert [one["candidate"] for one in made] == [0, 1, 2]
    assert len({one["seed"] for one in made}) == len({one["target"] for one in made}) == 3
    expected = np.random.default_rng([int(made[1]["seed"]), 5]).integers(
        0, 256, (30, 40, 3), np.uint8
    )
    assert (decoded(made[1]["target"]) == expected).all()
    # more candidates are more of the same; another row has other seeds
    more = list(stage(count=4).open()([row], CONTEXT)[0])
    assert more[:3] == made
    (other,) = map(list, operator([row | {"id": "b"}], CONTEXT))
    assert not {one["seed"] for one in other} & {one["seed"] for one in more}
    (bad,) = operator([row | {"source": b"x"}], CONTEXT)
    assert [one.reason for one in bad] == ["unreadable_picture"]


def test_fingerprints():
    one = stage()
    assert one.fingerprint() == stage(model="moved", gpus=0.0, tpus=4.0).fingerprint()
    changed = [stage(Maker("b")), stage(count=2), stage(steps=3), stage(guidance=2.0)]
    assert len({other.fingerprint() for other in [one, *changed]}) == 5
    assert stage(gpus=0.0, tpus=4.0).resources == {"CPU": 1, "GPU": 0, "TPU": 4}


def test_a_stage_is_sent_with_its_maker():
    row = {"id": "a", "source": encoded(0), "instruction_en": "do it"}
    sent = pickle.loads(pickle.dumps(stage()))
    assert list(sent.open()([row], CONTEXT)[0]) == list(stage().open()([row], CONTEXT)[0])
    with pytest.raises(UserError, match="nothing gave the editor"):
        OwnEditor(model="mine").fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"model": ""}, "model is ''"), ({"dtype": "int8"}, "dtype"), ({"count": 0}, "count")],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        stage(**settings)


@pytest.mark.parquet
def test_in_a_pipeline(tmp_path):
    """Its targets replace those before, and the masks of these are gone."""
    config: CurateConfig = tiny_config()
    config = override(
        config, {"stages": {**config.stages, "again": OwnEditor(model="mine", count=2)}}
    )
    config.validate()
    config.stages["again"].use(Maker())
    assert config.describe()["stages"]["again"]["model"] == "mine"
    drive(config.pipeline(), tmp_path)
    columns = {"target": bytes, "mask": bytes, "method": str, "seed": str, "category": str}
    rows = list(Results(config.pipeline(), Workdir(tmp_path)).accepted(columns))
    assert len(rows) == 32
    assert len({row["target"] for row in rows}) == len({row["seed"] for row in rows}) == 32
    assert {row["method"] for row in rows} == {"step1x_jax"}
    assert {row["mask"] for row in rows} == {None}
