"""Filters as stages: edits with planted defects go in, each is left out for its defect."""

import collections
import dataclasses
import functools
from typing import ClassVar

import numpy as np
import pytest

from step1x_jax.curation.engine.driver import Pipeline
from step1x_jax.curation.engine.source import Source, Unit
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.filters.duplicates import DuplicateIndex, EditHash, difference
from step1x_jax.curation.results import Results
from step1x_jax.curation.stages.decontamination import Decontamination
from step1x_jax.curation.stages.filters import Languages, Leak, Size, Unchanged
from step1x_jax.curation.stages.whole_filters import (
    Duplicates,
    EditHashes,
    FewSources,
    TemplateShare,
)
from step1x_jax.errors import UserError
from tests.curation.filters.rows import edit, encode, picture, row_of
from tests.curation.toys import drive

pytestmark = pytest.mark.parquet


@functools.cache
def planted():
    """Id -> row, in the order of ids."""
    source, target, mask = edit(0)
    leaked = target.copy()
    leaked[0, 0, 0] ^= 1
    other = edit(5)
    return {
        "a_good": row_of(source, target, mask),
        "b_small": row_of(*(one[:100, :200] for one in (source, target, mask))),
        "c_unchanged": row_of(source, source, mask),
        "d_leaked": row_of(source, leaked, mask),
        "e_again": row_of(source, target, mask),
        "f_near": row_of(*edit(0, colour=(249, 21, 20))),
        "g_benchmark": row_of(picture(50), other[1]),
        "h_language": row_of(*edit(7), instruction_cn="Add a square"),
        "i_quoted": row_of(*edit(8), instruction_en='Write "A"', instruction_cn="写上“B”"),
        "j_good": row_of(*edit(9)),
    }


@dataclasses.dataclass
class Planted(Source):
    """Those rows, in parts of three."""

    writes: ClassVar = {
        "source": bytes,
        "target": bytes,
        "mask": bytes,
        "instruction_en": str,
        "instruction_cn": str,
    }

    def units(self):
        ids = list(planted())
        return [Unit(ids[i : i + 3], "".join(ids[i : i + 3])) for i in range(0, len(ids), 3)]

    def read(self, payload, context):
        for id in payload:
            row = planted()[id]
            yield id, {name: value for name, value in row.items() if name != "id"}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """GEdit-Bench's columns, with one picture of the planted rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from step1x_jax.evaluation.benchmarks import GEDIT

    pictures = [encode(picture(seed)) for seed in range(50, 60)] + [encode(picture(99))]
    rows = [
        {
            "task_type": task,
            "key": f"{number:032x}",
            "instruction": "x",
            "instruction_language": language,
            "input_image": {"bytes": data, "path": None},
            "input_image_raw": {"bytes": data, "path": None},
            "Intersection_exist": True,
        }
        for number, (task, data) in enumerate(zip(GEDIT.tasks, pictures, strict=True))
        for language in GEDIT.languages
    ]
    path = tmp_path_factory.mktemp("gedit") / "gedit.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def filters(benchmark=""):
    return {
        "size": Size(),
        "unchanged": Unchanged(),
        "leak": Leak(),
        "decontamination": Decontamination(str(benchmark)),
        "hashes": EditHashes(),
        "duplicates": Duplicates(),
        "languages": Languages(),
    }


def reasons(stages, folder):
    """Id -> stage and reason of what was left out."""
    pipeline = Pipeline(Planted(), stages)
    drive(pipeline, folder)
    rows = Results(pipeline, Workdir(folder)).all({"mask": bytes})
    return {row["id"]: (row["stage"], row["reason"]) for row in rows if row["status"] != "ok"}


def test_each_defect_is_found(tmp_path, benchmark):
    assert reasons(filters(benchmark), tmp_path) == {
        "b_small": ("size", "too_small"),
        "c_unchanged": ("unchanged", "unchanged"),
        "d_leaked": ("leak", "changed_outside_mask"),
        "e_again": ("duplicates", "duplicate"),
        "f_near": ("duplicates", "near_duplicate"),
        "g_benchmark": ("decontamination", "benchmark_picture"),
        "h_language": ("languages", "chinese_has_no_han"),
        "i_quoted": ("languages", "quotations_differ"),
    }


def test_thresholds_are_settings(tmp_path, benchmark):
    found = reasons(filters(), tmp_path)
    assert "g_benchmark" not in found
    loose = filters() | {"size": Size(least_side=90), "leak": Leak(1), "duplicates": Duplicates(0)}
    found = reasons(loose, tmp_path)
    assert found["d_leaked"] == ("duplicates", "near_duplicate")  # it passes its own filter
    assert set(found) == {"c_unchanged", "d_leaked", "e_again", "h_language", "i_quoted"}
    one, other = Decontamination(str(benchmark)), Decontamination()
    assert one.fingerprint() != other.fingerprint()


def test_the_index_finds_what_comparing_with_all_finds():
    """Thumbnails near each other and far: as many as a cell and its neighbours have, and more."""
    rng = np.random.default_rng(0)
    centres = rng.integers(60, 200, (12, 4, 192))
    index, kept = DuplicateIndex(2.0), []
    found = []
    for number in range(400):
        most = rng.integers(1, 6)
        noise = rng.integers(-most, most + 1, (4, 192)) + rng.integers(-2, 3, (4, 1))
        thumbnails = (centres[number % 12] + noise).astype(np.int16)
        near = bool(kept) and (difference(thumbnails, np.stack(kept)) <= 2.0).any()
        found.append(near)
        assert index.add(EditHash(str(number), thumbnails)) == ("near_duplicate" if near else None)
        if not near:
            kept.append(thumbnails)
    assert 40 < sum(found) < 360


@dataclasses.dataclass
class Worded(Source):
    """Rows of one category whose wordings are named in the config."""

    names: tuple[str, ...] = ()

    writes: ClassVar = {"category": str, "template_en": str, "template_cn": str}

    def units(self):
        return [Unit(None, "")]

    def read(self, payload, context):
        for number, name in enumerate(self.names):
            yield (
                f"r{number:03d}",
                {
                    "category": "ps_human",
                    "template_en": name,
                    "template_cn": f"c{number % 7}",
                },
            )


def test_no_wording_has_more_than_its_share(tmp_path):
    names = ("a",) * 20 + tuple("bcdefghij") * 2
    pipeline = Pipeline(Worded(names), {"share": TemplateShare(0.2)})
    drive(pipeline, tmp_path)
    rows = list(Results(pipeline, Workdir(tmp_path)).all({"template_en": str}))
    left = [row["template_en"] for row in rows if row["status"] == "ok"]
    assert 18 < len(left) < 38
    assert max(left.count(name) for name in set(left)) <= 0.2 * len(left)
    out = [row for row in rows if row["status"] != "ok"]
    assert {row["reason"] for row in out} == {"template_too_frequent"}
    assert collections.Counter(row["template_en"] for row in out).most_common(1)[0][0] == "a"


@dataclasses.dataclass
class Photographed(Source):
    """Edits, each named by its category and the photographs that it is from."""

    edits: tuple[tuple[str, tuple[str, ...]], ...] = ()

    writes: ClassVar = {"category": str, "groups": list[str]}

    def units(self):
        return [Unit(None, "")]

    def read(self, payload, context):
        for number, (category, groups) in enumerate(self.edits):
            yield f"r{number}", {"category": category, "groups": list(groups)}


def test_a_category_of_few_photographs_is_left_out(tmp_path):
    """What counts is the photograph that is edited, not what was put into it."""
    edits = [("ps_human", ("face", other)) for other in "abcd"]
    edits += [("ps_human", ("face2", "e")), *(("color_alter", (name,)) for name in "abc")]
    pipeline = Pipeline(Photographed(tuple(edits)), {"few": FewSources()})
    drive(pipeline, tmp_path)
    rows = list(Results(pipeline, Workdir(tmp_path)).all({"category": str}))
    assert [row["category"] for row in rows if row["status"] == "ok"] == ["color_alter"] * 3
    out = [(row["reason"], row["detail"]) for row in rows if row["status"] != "ok"]
    assert out == [("few_sources", "face, face2")] * 5


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Duplicates(-1.0), "most is -1"),
        (TemplateShare(0.01), "most_share"),
        (FewSources(0), "least is 0"),
        (Decontamination(benchmark="none"), "benchmark is 'none'"),
    ],
)
def test_settings_that_cannot_be(stage, message):
    with pytest.raises(UserError, match=message):
        stage.validate()
