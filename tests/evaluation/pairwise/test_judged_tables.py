"""Judged pairs in arrow and parquet files, whose pictures are cells, or lists in cells."""

import pytest

from step1x_jax.evaluation.pairwise.judged_pairs import read_judged_pairs
from tests.evaluation.toy import picture, png, write_parquet, write_saved

pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
pytestmark = pytest.mark.parquet


def cell(text):
    return {"bytes": png(picture(text)), "path": None}


def test_editscores_editreward_bench(tmp_path):
    rows = [
        {
            "key": [f"{i}_a", f"{i}_b"],
            "task_type": "color_alter",
            "dimension": dimension,
            "instruction": "red",
            "input_image": cell(f"s{i}"),
            "output_images": [cell(f"good{i}"), cell(f"bad{i}")],
        }
        for i in range(3)
        for dimension in ("prompt_following", "consistency", "overall")
    ]
    pairs = read_judged_pairs(str(write_saved(tmp_path / "bench", rows)))
    assert [pair.dimension for pair in pairs[:3]] == [
        "instruction_following",
        "visual_consistency",
        "overall",
    ]
    assert {pair.preferred for pair in pairs} == {"first"}
    assert pairs[3].key == "1_a 1_b"
    read = [pairs[3].source(), pairs[3].first(), pairs[3].second()]
    assert read == [cell(name)["bytes"] for name in ("s1", "good1", "bad1")]


def test_tigers_editreward_bench(tmp_path):
    rows = [
        {
            "id": f"{i}_x",
            "instruction": "red",
            "source_image": cell(f"s{i}"),
            "candidate_1": cell(f"one{i}"),
            "candidate_2": cell(f"two{i}"),
            "comparison_type": "BvsC",
            "ranking": "C>B" if i % 2 else "B>C",
            "dataset": "3pair",
        }
        for i in range(9)
    ]
    path = write_parquet(tmp_path / "bench.parquet", rows)
    pairs = read_judged_pairs(str(path))
    assert [pair.preferred for pair in pairs[:2]] == ["first", "second"]
    assert pairs[8].second() == cell("two8")["bytes"]
    assert pairs[8].source() == cell("s8")["bytes"]
