"""Generating a benchmark's pictures: what noise, what is gone on with, who does what."""

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.generate import Counts, generate, note_run, sample_seed, take_share
from step1x_jax.evaluation.method_pictures import picture_path
from step1x_jax.evaluation.samples import SampleId
from tests.evaluation.toy import picture, toy_samples

SAMPLES = toy_samples()


class Editor:
    """Inverts a picture, marks it by its seed, and remembers what it was asked for."""

    def __init__(self, failing=()):
        self.failing, self.asked = set(failing), []

    def __call__(self, image, instruction, seed):
        self.asked.append((instruction, seed))
        if instruction in self.failing:
            raise RuntimeError(f"cannot {instruction}")
        edited = ImageOps.invert(image)
        edited.putpixel((0, 0), tuple(seed.to_bytes(8, "big")[:3]))
        return edited


def run(editor, folder, samples=SAMPLES, seed=0, **options):
    layout, source = GEDIT.layout, options.pop("source", "input_image")
    return generate(editor, samples, folder, layout=layout, source=source, seed=seed, **options)


def pictures(folder):
    """Contents of all pictures by path."""
    return {
        str(path.relative_to(folder)): np.asarray(Image.open(path))
        for path in sorted(folder.rglob("*.png"))
    }


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def test_every_sample_gets_its_picture(tmp_path):
    editor = Editor()
    assert run(editor, tmp_path) == Counts(made=44, there=0, failed=0)
    assert [instruction for instruction, _ in editor.asked] == [one.instruction for one in SAMPLES]
    for sample in SAMPLES:
        path = tmp_path / "fullset" / sample.id.task / sample.id.language / f"{sample.id.key}.png"
        expected = np.asarray(ImageOps.invert(picture(sample.id.key)))
        assert np.array_equal(np.asarray(Image.open(path))[1:], expected[1:])
    assert not list(tmp_path.glob("failures*"))


def test_the_named_source_is_edited(tmp_path):
    run(Editor(), tmp_path, SAMPLES[:1], source="input_image_raw")
    (made,) = pictures(tmp_path).values()
    assert made.shape == (48, 64, 3)


def test_noise_follows_from_seed_and_identity_alone(tmp_path):
    """Any order, selection and number of hosts: the same pictures."""
    run(Editor(), tmp_path / "all")
    expected = pictures(tmp_path / "all")
    for host in range(3):
        share = take_share(SAMPLES[::-1], host, 3)
        run(Editor(), tmp_path / "shared", share, host=host, hosts=3)
    assert same(pictures(tmp_path / "shared"), expected)
    run(Editor(), tmp_path / "some", SAMPLES[7:30:5])
    assert same(
        pictures(tmp_path / "some"),
        {name: expected[name] for name in pictures(tmp_path / "some")},
    )
    run(Editor(), tmp_path / "other", seed=1)
    assert not any(
        np.array_equal(expected[name], other)
        for name, other in pictures(tmp_path / "other").items()
    )


def test_seeds_differ_wherever_identities_do():
    ids = [
        *(sample.id for sample in SAMPLES),
        SampleId("a", "b", "c"), SampleId("ab", "", "c"), SampleId("a", "bc", ""),
        SampleId('a", "b', "", "c"), SampleId("", "ab", "c"),
    ]  # fmt: skip
    seeds = [sample_seed(seed, one) for seed in (0, 1, 2**64 - 1) for one in ids]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert max(seeds) > 2**62  # all bits are used
    # A sample's noise must not change between versions: printf '["0", ...]' | sha256sum
    assert sample_seed(0, SampleId("ps_human", "en", "0")) == 0xDD865B5F134F450E


def test_hosts_share_the_work():
    shares = [take_share(SAMPLES, host, 4) for host in range(4)]
    assert {len(share) for share in shares} == {11}
    assert sorted(one.id for share in shares for one in share) == sorted(one.id for one in SAMPLES)
    again = [take_share(SAMPLES[::-1], host, 4) for host in range(4)]
    for share, other in zip(shares, again, strict=True):
        assert {one.id for one in share} == {one.id for one in other}
        assert len({one.id.task for one in share}) > 4  # of no host all are of one kind
    assert take_share(SAMPLES, 0, 1) == SAMPLES
    for host, hosts in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(UserError, match="--shard="):
            take_share(SAMPLES, host, hosts)


def test_a_second_run_goes_on_and_replaces_what_cannot_be_read(tmp_path):
    run(Editor(), tmp_path)
    expected = pictures(tmp_path)
    first, second, third = (picture_path(tmp_path, one.id, "fullset") for one in SAMPLES[:3])
    first.unlink()
    second.write_bytes(second.read_bytes()[:60])
    before = os.stat(third).st_mtime_ns
    editor = Editor()
    assert run(editor, tmp_path) == Counts(made=2, there=42, failed=0)
    assert [instruction for instruction, _ in editor.asked] == [
        one.instruction for one in SAMPLES[:2]
    ]
    assert same(pictures(tmp_path), expected)
    assert os.stat(third).st_mtime_ns == before


def test_a_failing_sample_is_noted_and_the_rest_is_made(tmp_path):
    broken = SAMPLES[3].pictures | {"input_image": lambda: b"no picture"}
    samples = [*SAMPLES[:3], SAMPLES[3].__class__(SAMPLES[3].id, "x", broken), *SAMPLES[4:9]]
    told = []
    editor = Editor(failing=[SAMPLES[1].instruction])
    counts = run(editor, tmp_path, samples, tell=lambda *one: told.append(one))
    assert counts == Counts(made=7, there=0, failed=2)
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [(one["task"], one["language"], one["key"]) for one in lines] == [
        SAMPLES[1].id, SAMPLES[3].id,
    ]  # fmt: skip
    assert lines[0]["error"] == f"RuntimeError: cannot {SAMPLES[1].instruction}"
    assert "not a readable picture" in lines[1]["error"]
    assert [one for one, error in told if error] == [SAMPLES[1].id, SAMPLES[3].id]
    assert len(told) == len(samples)
    run(Editor(), tmp_path, SAMPLES[:9])  # what failed before is made, and no failure is left
    assert not (tmp_path / "failures.jsonl").exists()


def test_hosts_note_their_own_failures(tmp_path):
    editor = Editor(failing=[one.instruction for one in SAMPLES])
    run(editor, tmp_path, SAMPLES[:2])
    for host in range(2):
        run(editor, tmp_path, SAMPLES[host : host + 1], host=host, hosts=2)
    names = [path.name for path in sorted(tmp_path.glob("failures*"))]
    assert names == ["failures-0-of-2.jsonl", "failures-1-of-2.jsonl"]
    run(editor, tmp_path, SAMPLES[:3])
    (left,) = tmp_path.glob("failures*")
    assert (left.name, len(left.read_text().splitlines())) == ("failures.jsonl", 3)


def test_nothing_half_written_stays(tmp_path):
    class Stops(Image.Image):
        def save(self, *arguments, **options):
            raise KeyboardInterrupt

        def convert(self, *arguments):
            return self

    with pytest.raises(KeyboardInterrupt):
        run(lambda *arguments: Stops(), tmp_path, SAMPLES[:1])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


FACTS = {"seed": 0, "sampling": {"steps": 28, "size": (3, 4)}, "weights": {"loras": [("a", 1.0)]}}


def test_a_run_is_noted_and_gone_on_with(tmp_path):
    note_run(tmp_path, FACTS, {"device": "cpu"})
    noted = json.loads((tmp_path / "run.json").read_text())
    assert noted["sampling"] == {"steps": 28, "size": [3, 4]}
    assert noted["notes"] == {"device": "cpu"}
    note_run(tmp_path, FACTS, {"device": "another"})  # of no consequence
    assert json.loads((tmp_path / "run.json").read_text()) == noted


@pytest.mark.parametrize(
    ("change", "name", "before", "now"),
    [
        ({"seed": 1}, "seed", "0", "1"),
        ({"sampling": {"steps": 4, "size": (3, 4)}}, r"sampling\.steps", "28", "4"),
        ({"sampling": {"steps": 28}}, r"sampling\.size", r"\[3, 4\]", "None"),
        ({"weights": {"loras": []}}, r"weights\.loras", r"\[\['a', 1\.0\]\]", r"\[\]"),
        ({"source": "x"}, "source", "None", "'x'"),
    ],
)
def test_pictures_that_are_made_otherwise_are_not_mixed(tmp_path, change, name, before, now):
    note_run(tmp_path, FACTS, {})
    with pytest.raises(UserError, match=f"was made with {name}={before}, now it is {now};"):
        note_run(tmp_path, FACTS | change, {})


def test_all_orders_give_one_share():
    for order in itertools.islice(itertools.permutations(SAMPLES[:6]), 30):
        assert {one.id for one in take_share(order, 1, 2)} == {
            one.id for one in take_share(SAMPLES[:6], 1, 2)
        }
