import json
import sys

import pytest

from step1x_jax.data.sources import read_picture, read_triplets, stamp_picture
from step1x_jax.errors import UserError
from tests.data.public_sets import SETS, picture, save_pictures

ROW = {"source": "a.png", "target": "b/c.png", "instruction": "do it"}


def write(path, *rows, lines=True):
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.json"])
def test_rows_from_lines_and_lists(tmp_path, name):
    rows = [ROW, {**ROW, "instruction": "", "language": "zh", "task": "hue", "id": 0}]
    path = write(tmp_path / name, *rows, lines=name.endswith("l"))
    (first, second), bad = read_triplets(path)
    assert not bad
    assert first.source_path == str(tmp_path / "a.png")
    assert first.target_path == str(tmp_path / "b/c.png")
    assert (first.instruction, first.language, first.task) == ("do it", "", "")
    assert first.id == first.row == f"{name} {'line' if name.endswith('l') else 'row'} 1"
    assert (second.instruction, second.language, second.task, second.id) == ("", "zh", "hue", "0")


def test_the_published_layout(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"t/1.png": {"ref_image_path": "/s/1.png", "caption": "变红"}}))
    (row,), bad = read_triplets(path)
    assert not bad
    assert row.target_path == str(tmp_path / "t/1.png")
    assert row.source_path == "/s/1.png"
    assert (row.instruction, row.id) == ("变红", "t/1.png")


def test_bad_rows_are_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "edits.jsonl"
    lines = ["{", "3", "", '{"source": "a"}', '{"source": 1}', json.dumps(ROW)]
    lines.append(json.dumps({**ROW, "instruction": "\ud800"}))
    path.write_text("\n".join(lines))
    good, bad = read_triplets(path)
    assert [row.row for row in good] == ["edits.jsonl line 6"]
    assert [(row.row.split()[-1], row.reason) for row in bad[:4]] == [
        ("1", "not a JSON object (Input data was truncated)"),
        ("2", "not a JSON object"),
        ("4", "target is missing"),
        ("5", "source is not a text"),
    ]
    assert "not valid Unicode" in bad[4].reason
    path = tmp_path / "published.json"
    path.write_text('{"t.png": "s.png", "u.png": {"caption": "x"}}')
    assert [row.reason for row in read_triplets(path)[1]] == [
        "not a JSON object",
        "source is missing",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist"),
        ("edits.csv", b"a,b", r"is not a file of edits that ends in \.jsonl, \.json or"),
        ("edits.jsonl", b"\n\n", "has no rows"),
        ("edits.json", b"{}", "has no rows"),
        ("edits.json", b"3", "should hold"),
        ("edits.json", b"{", "not valid JSON"),
        ("edits.json", b"\xff\xfe", "UTF-8"),
        ("edit_turns.json", b"{}", "should hold MagicBrush's list"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_triplets(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("suffix", ["", "_file_name"])  # imagefolder's
def test_rows_of_the_public_sets(tmp_path, name, suffix):
    rows, expected = SETS[name]
    save_pictures(tmp_path, [f"{i}.png" for i in range(4)])
    pictures = {k for k, v in rows[0].items() if v in ("0.png", "1.png", ["0.png"], ["1.png"])}
    rows = [{k + suffix * (k in pictures): v for k, v in row.items()} for row in rows]
    (_, row), bad = read_triplets(write(tmp_path / "metadata.jsonl", *rows))
    assert not bad
    found = (row.source, row.target, row.instruction, row.language, row.task, row.id)
    assert found == (*expected[:5], expected[5] or "metadata.jsonl line 2")
    assert read_picture(row.source_path) == picture(2)
    assert read_picture(row.target_path) == picture(3)


def test_invalid_lists_of_pictures_and_paraphrases(tmp_path):
    omni, several = SETS["OmniEdit"][0][0], SETS["ImgEdit"][0][0]
    rows = [
        several | {"input_images": ["0.png", "2.png"]},
        several | {"output_images": []},
        several | {"input_images": [None]},
        omni | {"edited_prompt_list": []},
        omni | {"edited_prompt_list": "[]"},
        omni | {"edited_prompt_list": ["short", " "]},
        omni | {"edited_prompt_list": [3]},
        omni | {"edited_prompt_list": None},
        several | {"prompt": ["a", "b"]},
        {"input": "0.png", "output": "1.png", "edit": "x"},
    ]
    good, bad = read_triplets(write(tmp_path / "edits.jsonl", *rows))
    assert not good
    assert [row.reason for row in bad[:-1]] == [
        "input_images has 2 pictures, not one",
        "output_images has 0 pictures, not one",
        "input_images is missing",
        "edited_prompt_list is an empty list",
        "edited_prompt_list is an empty list",
        "edited_prompt_list has a paraphrase that is empty or not a text",
        "edited_prompt_list has a paraphrase that is empty or not a text",
        "edited_prompt_list is missing",
        "prompt is not a text",
    ]
    assert bad[-1].reason.startswith("its fields match no known data set")
    for name in ("source, target, instruction", *list(SETS)[1:]):
        assert name in bad[-1].reason


def test_one_paraphrase_is_chosen_and_always_the_same(tmp_path):
    paraphrases = ["short", "a long one"]
    omni = SETS["OmniEdit"][0][0]
    rows = [omni | {"edited_prompt_list": paraphrases} for _ in range(400)]
    taken = [row.instruction for row in read_triplets(write(tmp_path / "e.jsonl", *rows))[0]]
    assert 150 < taken.count("short") < 250  # 5 standard deviations of a fair coin
    assert set(taken) == set(paraphrases)
    # As JSON text, in another folder, with other rows after it: determined by the row's name.
    (tmp_path / "sub").mkdir()
    rows = [row | {"edited_prompt_list": json.dumps(paraphrases)} for row in rows[:100]]
    again, _ = read_triplets(write(tmp_path / "sub" / "e.jsonl", *rows))
    assert [row.instruction for row in again] == taken[:100]
    # A text that is not a list is unchanged, as is a text of another schema that looks like one.
    rows = [omni | {"edited_prompt_list": '"3"'}, ROW | {"instruction": '["a", "b"]'}]
    good, _ = read_triplets(write(tmp_path / "f.jsonl", *rows))
    assert [row.instruction for row in good] == ['"3"', '["a", "b"]']


def test_a_complete_schema_has_priority_over_a_field_of_another(tmp_path):
    row = SETS["OmniEdit"][0][1] | {"source": "laion"}
    ((row,), _) = read_triplets(write(tmp_path / "edits.jsonl", row))
    assert (row.source, row.instruction) == ("2.png", "a cat 1")


def test_a_folder_with_metadata_of_the_hub(tmp_path):
    rows = [ROW | {"source": f"{i}.png", "id": i} for i in range(3)]
    for place, part in {"b": rows[:1], "a/deep": rows[1:]}.items():
        save_pictures(tmp_path / place, ["0.png", "1.png", "2.png"])
        write(tmp_path / place / "metadata.jsonl", *part)
    write(tmp_path / "other.jsonl", ROW)
    write(tmp_path / "a" / "info.json", ROW, lines=False)
    triplets, bad = read_triplets(tmp_path)
    assert not bad
    assert [row.row for row in triplets] == [
        "a/deep/metadata.jsonl line 1",
        "a/deep/metadata.jsonl line 2",
        "b/metadata.jsonl line 1",
    ]
    assert [row.id for row in triplets] == ["1", "2", "0"]
    assert [read_picture(row.source_path) for row in triplets] == [picture(i) for i in (1, 2, 0)]


@pytest.mark.parametrize("given", ["train", "train/edit_turns.json"])
def test_the_layout_of_magicbrush(tmp_path, given):
    rows = [
        {"input": f"{a}.png", "mask": f"{m}.png", "output": f"{b}.png", "instruction": text}
        for a, m, b, text in [
            ("242679-input", "242679-mask1", "242679-output1", "a sink"),
            ("242679-output1", "242679-mask2", "242679-output2", "a mirror"),
            ("7-input", "7-mask1", "7-output1", "a dog"),
        ]
    ]
    names = [f"242679/242679-{n}.png" for n in ("input", "output1", "output2")]
    names += ["7/7-input.png", "7/7-output1.png"]
    save_pictures(tmp_path / "train" / "images", names)
    write(tmp_path / "train" / "edit_turns.json", *rows, 3, {}, lines=False)
    write(tmp_path / "train" / "edit_sessions.json", {"242679": []}, lines=False)
    triplets, bad = read_triplets(tmp_path / given)
    assert [row.reason for row in bad] == ["not a JSON object", "source is missing"]
    assert [(row.id, row.instruction) for row in triplets] == [
        ("242679-output1", "a sink"),
        ("242679-output2", "a mirror"),
        ("7-output1", "a dog"),
    ]
    assert triplets[0].row == "edit_turns.json row 1"
    assert [read_picture(row.source_path) for row in triplets] == [picture(i) for i in (0, 1, 3)]
    assert [read_picture(row.target_path) for row in triplets] == [picture(i) for i in (1, 2, 4)]


def test_the_layout_of_instructpix2pix(tmp_path):
    """Its folders also have a metadata.jsonl with one line per seed, and seeds.json above."""
    prompt = {"caption": "a hill", "edit": "make it snow", "output": "a white hill"}
    for folder, seeds in {"shard-00/0000001": [9, 12], "shard-01/0000002": [5]}.items():
        save_pictures(tmp_path / folder, [f"{seed}_{i}.jpg" for seed in seeds for i in (0, 1)])
        (tmp_path / folder / "prompt.json").write_text(json.dumps(prompt))
        write(tmp_path / folder / "metadata.jsonl", *({"seed": seed} for seed in seeds))
    (tmp_path / "shard-01" / "0000003").mkdir()  # no picture passed the filters
    (tmp_path / "shard-01" / "0000003" / "prompt.json").write_text(json.dumps(prompt))
    save_pictures(tmp_path / "shard-02", ["1_0.jpg", "1_1.jpg"])
    (tmp_path / "shard-02" / "prompt.json").write_text("{")
    write(tmp_path / "seeds.json", ["0000001", [9, 12]], lines=False)
    triplets, bad = read_triplets(tmp_path)
    assert [row.row for row in triplets] == [
        "shard-00/0000001/prompt.json seed 12",
        "shard-00/0000001/prompt.json seed 9",
        "shard-01/0000002/prompt.json seed 5",
    ]
    assert {row.instruction for row in triplets} == {"make it snow"}
    assert [read_picture(row.source_path) for row in triplets] == [picture(i) for i in (2, 0, 0)]
    assert [read_picture(row.target_path) for row in triplets] == [picture(i) for i in (3, 1, 1)]
    assert [(row.row, row.reason) for row in bad] == [
        ("shard-02/prompt.json seed 1", "not a JSON object (Input data was truncated)")
    ]


def test_which_files_of_a_folder_are_read(tmp_path):
    """Files are added from the last pattern to the first: each takes priority when it is added."""
    hidden = tmp_path / ".cache"
    hidden.mkdir()
    write(hidden / "metadata.jsonl", ROW)
    write(tmp_path / "._edits.jsonl", ROW)
    with pytest.raises(UserError, match=r"no list of edits; .*edit_turns\.json.*\*\.json\."):
        read_triplets(tmp_path)

    def found(name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        row = ROW if name != "edit_turns.json" else {**ROW, "input": "a", "output": "b"}
        write(path, row, lines=name.endswith("l"))
        return {row.row.rsplit(" ", 2)[0] for row in read_triplets(tmp_path)[0]}

    assert found("b.json") == {"b.json"}
    assert found("a/a.json") == {"a/a.json", "b.json"}
    assert found("z.jsonl") == {"z.jsonl"}
    assert found("y/z.jsonl") == {"y/z.jsonl", "z.jsonl"}
    assert found("y/metadata.jsonl") == {"y/metadata.jsonl"}
    save_pictures(tmp_path / "y", ["1_0.jpg"])
    (tmp_path / "y" / "prompt.json").write_text('{"edit": "x"}')
    assert found("z.jsonl") == {"y/prompt.json"}
    assert found("edit_turns.json") == {"edit_turns.json"}


def test_sizes_of_picture_files(tmp_path):
    path = tmp_path / "a.png"
    assert stamp_picture(str(path)) == (-1, "")
    assert stamp_picture("\0") == (-1, "")
    for content in (b"abc", b"ab"):
        path.write_bytes(content)
        assert stamp_picture(str(path))[0] == len(content)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = tmp_path / "a.parquet"
    path.touch()
    for read in (read_triplets, lambda path: read_picture(f"{path}#0#source")):
        with pytest.raises(UserError, match=r"pip install 'step1x_jax\[parquet\]'"):
            read(path)
