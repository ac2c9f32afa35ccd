"""From decisions to a benchmark: what goes out, what does not, and what the log says."""

import dataclasses
import hashlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import BENCHMARKS, GEDIT, GEDIT_V2
from step1x_jax.evaluation.dataset_files import WRITERS, write_listed
from step1x_jax.evaluation.datasets import read_samples
from step1x_jax.evaluation.deidentify.audit_log import verify_log
from step1x_jax.evaluation.deidentify.decisions import Redaction, read_decisions
from step1x_jax.evaluation.deidentify.export import ABOUT, export_dataset
from step1x_jax.evaluation.deidentify.look_alikes import PublicPictures
from step1x_jax.evaluation.deidentify.redact import FILL, redact_picture
from step1x_jax.evaluation.deidentify.scan import scan_pictures
from tests.evaluation.deidentify.private import SECRET_WORDS, SIZE, Finds, private_samples
from tests.evaluation.toy import picture, png, toy_rows, toy_samples


class Place:
    """A scanned private data set, and decisions about it, as the page exports them."""

    def __init__(self, tmp_path, count=5):
        self.samples = private_samples(count)
        self.public = tmp_path / "public"
        self.public.mkdir()
        for number in range(3):
            picture(f"public {number}", (80, 60)).save(self.public / f"{number}.png")
        self.findings = scan_pictures(
            self.samples, benchmark="gedit", source="input_image_raw",
            detectors={"faces": Finds()}, public=PublicPictures(self.public),
        )  # fmt: skip
        self.path = tmp_path
        self.audit, self.output = tmp_path / "work" / "audit.jsonl", tmp_path / "benchmark"
        self.audit.parent.mkdir()
        self.values = {
            "format": 1, "scan": self.findings.scan, "reviewer": "B. Looker",
            "exported": "2026-11-30T10:00:00.000Z", "decisions": {},
        }  # fmt: skip

    def decide(self, number, action, boxes=(), look_alike=None, instructions=None):
        found = self.findings.pictures[number]
        self.values["decisions"][found.digest] = {
            "action": action,
            "boxes": [dict(zip(("x0", "y0", "x1", "y1", "how"), b, strict=True)) for b in boxes],
            "look_alike": look_alike,
            "instructions": instructions or [one.instruction for one in found.requests],
        }

    def write(self, name="decisions.json", **changed):
        (self.path / name).write_text(json.dumps(self.values | changed))
        return self.path / name

    def read(self):
        return read_decisions([self.write()], self.findings)

    def export(self, **changed):
        settings = {
            "benchmark": GEDIT, "public_folder": self.public, "folder": self.output,
            "audit": self.audit, "write": write_listed, "inputs": {"findings.json": "0" * 64},
        }  # fmt: skip
        return export_dataset(self.samples, self.findings, self.read(), **settings | changed)

    def log(self):
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def rows(self):
        return [json.loads(line) for line in (self.output / "metadata.jsonl").open()]


@pytest.fixture
def place(tmp_path):
    """Of five pictures one each is kept, redacted, replaced and dropped, one is not reviewed."""
    made = Place(tmp_path)
    hat = ["put a hat on the woman", "给这位女士戴上帽子"]
    made.decide(0, "keep", instructions=hat)
    made.decide(1, "redact", [(10, 20, 40, 50, "fill"), (50, 5, 90, 60, "blur")], instructions=hat)
    look_alike = made.findings.pictures[2].look_alikes[1].digest
    made.decide(2, "replace", look_alike=look_alike, instructions=hat)
    made.decide(3, "drop")
    return made


def open_row(place, row, column="input_image_raw"):
    return Image.open(place.output / row[column])


def pixels(image):
    return np.asarray(image.convert("RGB"), int)


def test_only_reviewed_samples_go_out_as_they_were_decided(place):
    made = place.export()
    assert (made.rows, made.rewritten, made.dropped, made.not_reviewed, made.not_scanned) == (
        6, 6, 2, 2, 0,
    )  # fmt: skip
    assert made.actions == {"keep": 2, "redact": 2, "replace": 2}
    rows = place.rows()
    assert [row["instruction_language"] for row in rows] == ["en", "cn"] * 3
    assert {row["instruction"] for row in rows} == {"put a hat on the woman", "给这位女士戴上帽子"}
    originals = [
        decode_image(place.samples[2 * number].pictures["input_image_raw"](), "")
        for number in range(3)
    ]
    # kept: pixel by pixel
    assert (pixels(open_row(place, rows[0])) == pixels(originals[0])).all()
    # redacted: burnt into the upright picture, nothing else changed
    redacted, before = pixels(open_row(place, rows[2])), pixels(originals[1])
    assert redacted.shape == (SIZE[1], SIZE[0], 3)
    assert (redacted[20:50, 10:40] == FILL).all()
    same = np.ones(SIZE[::-1], bool)
    same[20:50, 10:40] = same[5:60, 50:90] = False
    assert (redacted[same] == before[same]).all()
    # replaced: the public picture, whose bytes may go out
    digest = place.findings.pictures[2].look_alikes[1].digest
    (public,) = (
        file for file in place.public.iterdir()
        if hashlib.sha256(file.read_bytes()).hexdigest() == digest
    )  # fmt: skip
    assert (pixels(open_row(place, rows[4])) == pixels(Image.open(public))).all()


def test_the_output_is_a_benchmark_with_new_keys(place):
    place.export()
    samples = read_samples(place.output, GEDIT)
    assert [sample.id[:2] for sample in samples] == [("ps_human", "en"), ("ps_human", "cn")] * 3
    keys = [sample.id.key for sample in samples]
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
    assert [sample.intersection for sample in samples] == [True, True, False, False, True, True]
    small = decode_image(samples[0].pictures["input_image"](), "")
    # multiples of 32 nearest to 96:64 with an area of 512^2: 627 x 418
    assert small.size == (640, 416)


def test_nothing_private_is_in_the_output(place):
    place.export()
    originals = {sample.pictures["input_image_raw"]() for sample in place.samples}
    faces = [pixels(decode_image(data, ""))[20:50, 10:40] for data in originals]
    files = [path for path in place.output.rglob("*") if path.is_file()]
    assert len(files) == 6 * 2 + 2
    for path in files:
        data = path.read_bytes()
        assert not any(original in data or data in original for original in originals)
        assert not any(word.encode() in data or word in str(path) for word in SECRET_WORDS)
        assert place.findings.secret.encode() not in data
        assert not any(one.digest.encode() in data for one in place.findings.pictures)
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert (image.info, dict(image.getexif())) == ({}, {})
                if image.size == SIZE and "input_image_raw/0000" in str(path):
                    number = int(path.stem)
                    shown = pixels(image)[20:50, 10:40]
                    assert any((shown == face).all() for face in faces) == (number < 2)  # kept


def test_the_log_has_hashes_of_all_and_the_text_of_nothing(place):
    made = place.export()
    head, count = verify_log(place.audit)
    assert (head, count) == (made.head, 6 + 1)
    text = place.audit.read_text()
    assert not any(word in text for word in SECRET_WORDS)
    *samples, last = place.log()
    rows = place.rows()
    for entry, row in zip(samples, rows, strict=True):
        assert (entry["event"], entry["key"], entry["reviewer"]) == (
            "sample", row["key"], "B. Looker",
        )  # fmt: skip
        for column in ("input_image", "input_image_raw"):
            data = (place.output / row[column]).read_bytes()
            assert entry["exported"][column] == hashlib.sha256(data).hexdigest()
    first = place.samples[0]
    assert samples[0]["original"] == {
        "sample": hashlib.sha256(b"ps_human/en/IMG_anna_0").hexdigest(),
        "picture": hashlib.sha256(first.pictures["input_image_raw"]()).hexdigest(),
        "instruction": hashlib.sha256(first.instruction.encode()).hexdigest(),
    }
    assert samples[2]["boxes"][1] == {"x0": 50, "y0": 5, "x1": 90, "y1": 60, "how": "blur"}
    assert (last["event"], last["rows"], last["inputs"]) == (
        "export", 6, {"findings.json": "0" * 64},
    )  # fmt: skip
    summary = json.loads((place.output / "deidentified.json").read_text())
    assert (summary["head"], summary["about"], summary["rows"]) == (head, ABOUT, 6)
    # a second export adds to the same log, and the keys stay
    place.output = place.output.with_name("again")
    place.export()
    assert verify_log(place.audit)[1] == 14
    assert [row["key"] for row in place.rows()] == [row["key"] for row in rows]


def test_a_data_set_that_changed_since_the_scan_is_refused(place):
    other = private_samples(6)
    place.samples[0] = dataclasses.replace(place.samples[0], pictures=other[-1].pictures)
    with pytest.raises(
        UserError, match="picture of ps_human/en/IMG_anna_0 is not the one that was"
    ):
        place.export()
    place.samples[0] = dataclasses.replace(private_samples(1)[0], instruction="another")
    with pytest.raises(UserError, match="instruction of ps_human/en/IMG_anna_0 is not the one"):
        place.export()
    place.samples[:2] = private_samples(1)
    place.samples += other[-2:]
    assert place.export().not_scanned == 2


def test_a_look_alike_that_changed_is_refused(place):
    for file in place.public.iterdir():
        picture("another").save(file)
    with pytest.raises(UserError, match="is not the picture that was scanned"):
        place.export()
    with pytest.raises(UserError, match="--public"):
        place.export(public_folder=None)
    (found,) = (one for one in place.findings.pictures[2].look_alikes[1:2])
    for file in ("../public/1.png", "/etc/passwd", ""):
        place.findings.pictures[2].look_alikes[1] = dataclasses.replace(found, file=file)
        with pytest.raises(UserError, match="outside of"):
            place.export()
    assert not place.output.exists()
    assert not place.audit.exists()  # what was not exported is not logged


def test_places_and_logs_that_cannot_be(place):
    for inside in (place.output / "audit.jsonl", place.output):
        with pytest.raises(UserError, match="folder that is given away"):
            place.export(audit=inside)
    place.audit.write_text('{"previous": "1"}\n')
    with pytest.raises(UserError, match="changed or cut off at line 1"):
        place.export()
    place.audit.unlink()
    place.output.mkdir()
    with pytest.raises(UserError, match="is there already"):
        place.export()
    os.rmdir(place.output)
    place.values["decisions"] = {}
    with pytest.raises(UserError, match="none of the samples was reviewed"):
        place.export()
    assert not place.output.exists()


def change_boxes(decision, *boxes):
    decision["boxes"] = [
        dict(zip(("x0", "y0", "x1", "y1", "how"), box, strict=True)) for box in boxes
    ]


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, lambda d: d.update(action="publish"), "action"),
        (0, lambda d: d.update(instructions=["one"]), "1 instructions for 2 samples"),
        (0, lambda d: d.update(instructions=["one", " \n"]), "empty instruction"),
        (0, lambda d: d.update(instructions=["one", ""]), "instructions"),
        (0, lambda d: d.update(instructions=["one", "a" * 10001]), "instructions"),
        (0, lambda d: change_boxes(d, (1, 1, 9, 9, "fill")), "boxes belong to redact"),
        (1, lambda d: change_boxes(d), "boxes belong to redact"),
        (1, lambda d: change_boxes(d, (1, 1, 97, 9, "fill")), "outside of the picture"),
        (1, lambda d: change_boxes(d, (9, 1, 9, 9, "fill")), "outside of the picture"),
        (1, lambda d: change_boxes(d, (-1, 1, 9, 9, "fill")), "boxes"),
        (1, lambda d: change_boxes(d, (1.5, 1, 9, 9, "fill")), "boxes"),
        (1, lambda d: change_boxes(d, (1, 1, 9, 9, "hide")), "boxes"),
        (1, lambda d: change_boxes(d, *[(1, 1, 9, 9, "fill")] * 1001), "boxes"),
        (2, lambda d: d.update(look_alike=None), "no look-alike that the scan found"),
        (2, lambda d: d.update(look_alike="0" * 64), "no look-alike that the scan found"),
        (2, lambda d: d.update(look_alike="x"), "look_alike"),
        (0, lambda d: d.update(look_alike="0" * 64), "belongs to replace only"),
    ],
)
def test_decisions_that_cannot_be_carried_out(place, number, change, message):
    change(place.values["decisions"][place.findings.pictures[number].digest])
    with pytest.raises(UserError, match=message):
        place.read()


def test_decisions_of_others_of_strangers_and_against_each_other(place):
    with pytest.raises(UserError, match="belongs to the scan 'another', not to"):
        read_decisions([place.write(scan="another")], place.findings)
    with pytest.raises(UserError, match="reviewer"):
        read_decisions([place.write(reviewer="")], place.findings)
    unknown = {"0" * 64: next(iter(place.values["decisions"].values()))}
    with pytest.raises(UserError, match="a picture that no scan knows"):
        read_decisions([place.write(decisions=unknown)], place.findings)
    first = place.write()
    place.values["reviewer"] = "C. Other"
    second = place.write("second.json")
    assert len(read_decisions([first, second], place.findings)) == 4  # they agree
    place.decide(0, "drop")
    third = place.write("third.json")
    with pytest.raises(UserError, match=r"decide differently about the picture .*IMG_anna_0"):
        read_decisions([first, third], place.findings)


def test_a_fill_leaves_nothing_and_a_blur_four_by_four_means():
    rng = np.random.default_rng(0)
    secret = rng.integers(0, 256, (64, 96, 3), np.uint8)
    other = secret.copy()
    other[8:40, 8:40] = rng.integers(0, 256, (32, 32, 3), np.uint8)
    fill = Redaction(8, 8, 40, 40, "fill")
    for boxes in (
        [fill],
        # a blur beside and around a fill sees none of what that hides
        [fill, Redaction(0, 0, 60, 60, "blur")],
        [Redaction(30, 30, 90, 60, "blur"), fill],
    ):
        one, two = (redact_picture(Image.fromarray(p), boxes) for p in (secret, other))
        assert (np.asarray(one) == np.asarray(two)).all()
    # pixels may be exchanged within a part of a blurred box: only the parts' means count
    shuffled = secret.copy()
    for y in range(8, 40, 8):
        for x in range(8, 40, 8):
            part = shuffled[y : y + 8, x : x + 8].reshape(64, 3)
            shuffled[y : y + 8, x : x + 8] = rng.permutation(part).reshape(8, 8, 3)
    blur = [Redaction(8, 8, 40, 40, "blur")]
    one, two = (redact_picture(Image.fromarray(p), blur) for p in (secret, shuffled))
    # Pillow takes means along rows, rounds, then along columns: one level, and one of the cubics
    assert np.abs(pixels(one) - pixels(two)).max() <= 2
    middle = np.asarray(one)[12:36:8, 12:36:8].astype(int)
    means = secret[8:32, 8:32].reshape(3, 8, 3, 8, 3).mean((1, 3))
    # noise of 64 pixels has means near 127; smooth transitions move them a little
    assert np.abs(middle - means).max() < 12
    tiny = redact_picture(Image.fromarray(secret), [Redaction(0, 0, 2, 1, "blur")])
    assert tiny.size == (96, 64)


@pytest.mark.parametrize("form", ["folder", pytest.param("parquet", marks=pytest.mark.parquet)])
def test_rows_are_read_as_they_were_written(tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    rows = toy_rows(7)  # more than one row group
    wanted = toy_samples(7)
    tmp_path = tmp_path / "out"
    tmp_path.mkdir()
    cells = ("input_image", "input_image_raw")
    WRITERS[form](
        tmp_path,
        ({**row, **{name: row[name]["bytes"] for name in cells}} for row in rows),
    )
    read = read_samples(tmp_path, GEDIT)
    for one, other in zip(read, wanted, strict=True):
        assert (one.id, one.instruction, one.intersection) == (
            other.id, other.instruction, other.intersection,
        )  # fmt: skip
        for name in cells:
            assert one.pictures[name]() == other.pictures[name]()


@pytest.mark.parquet
def test_the_parquet_file_says_which_columns_are_pictures(tmp_path):
    """As Hugging Face's datasets reads it: from the metadata of the file's schema."""
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    row = {"key": "a", "flag": None, "input_image": png(picture("a"))}
    WRITERS["parquet"](tmp_path, [row])
    schema = pyarrow.read_schema(tmp_path / "data" / "train-00000-of-00001.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "key": {"dtype": "string", "_type": "Value"},
        "flag": {"dtype": "bool", "_type": "Value"},
        "input_image": {"_type": "Image"},
    }
    assert str(schema.field("input_image").type) == "struct<bytes: binary, path: string>"


def test_benchmarks_with_one_picture_column(tmp_path):
    samples = [
        dataclasses.replace(
            one, id=one.id._replace(language=""), intersection=None,
            pictures={"source_image": one.pictures["input_image_raw"]},
        )
        for one in private_samples(2)[::2]
    ]  # fmt: skip
    place = Place(tmp_path)
    place.samples = samples
    place.findings = scan_pictures(
        samples, benchmark="geditv2", source="source_image", detectors={}
    )
    place.values["scan"] = place.findings.scan
    place.decide(0, "keep")
    place.export(benchmark=GEDIT_V2)
    (row,) = place.rows()
    assert list(row) == ["task", "key", "instruction", "source_image"]
    (read,) = read_samples(place.output, BENCHMARKS["geditv2"])
    assert Image.open(io.BytesIO(read.pictures["source_image"]())).size == SIZE
