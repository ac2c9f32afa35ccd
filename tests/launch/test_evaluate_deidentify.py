"""launch.evaluate deidentify: the commands one after another, and the page in a browser."""

import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.datasets import read_samples
from step1x_jax.evaluation.deidentify.audit_log import verify_log
from step1x_jax.evaluation.deidentify.decisions import read_decisions
from step1x_jax.evaluation.deidentify.findings import read_findings
from step1x_jax.evaluation.deidentify.look_alikes import PublicPictures
from step1x_jax.evaluation.deidentify.review import build_review
from step1x_jax.evaluation.deidentify.scan import scan_pictures
from tests.evaluation.deidentify.private import SIZE, Finds, private_samples
from tests.evaluation.toy import picture, toy_rows, write_listed
from tests.launch.evaluate_command import evaluate

BENCHMARK, DEIDENTIFY = (
    ("launch.evaluations.benchmark_flags",),
    ("launch.evaluations.deidentify_flags",),
)


def page_data(path):
    """What a page's script is given."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_a_data_set_goes_through_all_three(tmp_path, monkeypatch, capsys):
    """The toy benchmark, with a detector of a user's; odd pictures are redacted, even ones kept."""
    write_listed(tmp_path / "data", toy_rows())
    (tmp_path / "public").mkdir()
    picture("public", (40, 30)).save(tmp_path / "public" / "a.png")
    plates = types.SimpleNamespace(find=lambda pixels: [(10, 10, 20, 20, 1)])
    monkeypatch.setitem(sys.modules, "my_plates", plates)
    places = [f"--dataset={tmp_path}/data", f"--public={tmp_path}/public"]
    findings = tmp_path / "work" / "findings.json"
    with evaluate("deidentify_scan", BENCHMARK) as (scan, _):
        arguments = [
            *places, "--source=input_image_raw", "--find=", "--plates=my_plates:find",
            f"--output={findings}",
        ]  # fmt: skip
        scan(*arguments)
        assert "22 pictures, 22 with faces, text or plates, 0 with a position" in (
            capsys.readouterr().out
        )
        with pytest.raises(UserError, match="is there already"):
            scan(*arguments)
    found = read_findings(findings)
    assert (found.source, found.detectors) == ("input_image_raw", {"plates": "my_plates:find"})
    with evaluate("deidentify_review", DEIDENTIFY) as (review, _):
        review(*places, f"--findings={findings}", f"--output={tmp_path}/work/review")
    shown = page_data(tmp_path / "work" / "review" / "index.html")["pictures"]
    assert [one["digest"] for one in shown] == [one.digest for one in found.pictures]
    decisions = {
        one.digest: {
            "action": "redact" if number % 2 else "keep",
            "boxes": [{"x0": 9, "y0": 9, "x1": 21, "y1": 21, "how": "fill"}] * (number % 2),
            "look_alike": None,
            "instructions": [f"{request.instruction}!" for request in one.requests],
        }
        for number, one in enumerate(found.pictures)
    }
    values = {
        "format": 1, "scan": found.scan, "reviewer": "me", "decisions": decisions,
        "exported": "2026-11-30T10:00:00.000Z",
    }  # fmt: skip
    (tmp_path / "work" / "decisions.json").write_text(json.dumps(values))
    capsys.readouterr()
    with evaluate("deidentify_export", DEIDENTIFY) as (export, _):
        export(
            *places, f"--findings={findings}", f"--decisions={tmp_path}/work/decisions.json",
            f"--audit={tmp_path}/work/audit.jsonl", f"--output={tmp_path}/out", "--to=folder",
        )  # fmt: skip
    said = capsys.readouterr().out
    assert "44 samples (22 keep, 22 redact; 44 instructions rewritten)" in said
    head, count = verify_log(tmp_path / "work" / "audit.jsonl")
    assert (head[:16] in said, count) == (True, 45)
    before = read_samples(tmp_path / "data", GEDIT)
    after = read_samples(tmp_path / "out", GEDIT)
    assert [one.id[:2] for one in after] == [one.id[:2] for one in before]
    assert [one.instruction for one in after] == [f"{one.instruction}!" for one in before]
    assert [one.intersection for one in after] == [one.intersection for one in before]
    pixels = [
        np.array(decode_image(one.pictures["input_image_raw"](), ""))
        for one in (before[0], after[0], before[2], after[2])
    ]
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[3][9:21, 9:21] == 128).all()
    pixels[2][9:21, 9:21] = 128
    assert (pixels[2] == pixels[3]).all()


class Reviewer:
    """Somebody with the page; `foreign`: what it asked others for; `errors`: its own."""

    def __init__(self, chromium, folder):
        self.context = chromium.new_context(viewport={"width": 1280, "height": 860})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(20_000)
        self.foreign, self.errors = [], []
        self.tab.on("request", lambda request: self._note(request.url, folder.as_uri()))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.errors.append(message.text))
        self.tab.goto((folder / "index.html").as_uri())

    def _note(self, address, place):
        if not address.startswith((place, "data:", "blob:")):
            self.foreign.append(address)

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    def drag(self, start, end):
        """From one place to another, in pixels of the picture."""
        self.tab.mouse.move(*self.on_screen(*start))
        self.tab.mouse.down()
        self.tab.mouse.move(
            *self.on_screen(*((a + b) / 2 for a, b in zip(start, end, strict=True)))
        )
        self.tab.mouse.move(*self.on_screen(*end))
        self.tab.mouse.up()

    def on_screen(self, x, y):
        area = self.tab.locator("#picture").bounding_box()
        return area["x"] + x * area["width"] / SIZE[0], area["y"] + y * area["height"] / SIZE[1]

    def boxes(self):
        """Of the picture that is shown: (x0, y0, x1, y1, how)."""
        names = "x0", "y0", "x1", "y1", "how"
        return [tuple(box[n] for n in names) for box in self.tab.evaluate("decision().boxes")]

    def text(self, selector):
        return self.tab.locator(selector).inner_text()

    def download(self, path):
        with self.tab.expect_download() as download:
            self.tab.click("#export")
        download.value.save_as(path)
        return path


@pytest.fixture
def review(tmp_path):
    """Five pictures with a face in each, their review page, and the findings."""
    samples = private_samples(5)
    (tmp_path / "public").mkdir()
    for number in range(3):
        picture(f"public {number}", (80, 60)).save(tmp_path / "public" / f"{number}.png")
    found = scan_pictures(
        samples, benchmark="gedit", source="input_image_raw", detectors={"faces": Finds()},
        public=PublicPictures(tmp_path / "public"),
    )  # fmt: skip
    build_review(found, samples, tmp_path / "public", tmp_path / "review")
    return tmp_path / "review", found


def near(box, expected):
    """Whether a box's sides are where they were dragged to; the screen's pixels are smaller."""
    return box[4] == expected[4] and np.abs(np.subtract(box[:4], expected[:4])).max() <= 1


@pytest.mark.slow
def test_deciding_in_a_browser(review, chromium, tmp_path):
    folder, found = review
    person = Reviewer(chromium, folder)
    tab = person.tab
    assert "1 face, 0 text, 0 plates" in person.text("#found")
    assert "GPS position" in person.text("#found")
    assert person.boxes() == [(10, 20, 40, 50, "fill")]  # what was found is proposed
    assert person.text("#count") == "0 decided"
    # draw one, and blur it
    person.press("r")
    person.drag((50, 5), (90, 60))
    person.press("b")
    assert near(person.boxes()[1], (50, 5, 90, 60, "blur"))
    # move it, then take a corner
    person.drag((70, 30), (60, 33))
    assert near(person.boxes()[1], (40, 8, 80, 63, "blur"))
    person.drag((80, 63), (95, 40))
    assert near(person.boxes()[1], (40, 8, 95, 40, "blur"))
    # it cannot leave the picture
    person.drag((70, 20), (200, 90))
    x0, y0, x1, y1, _ = person.boxes()[1]
    assert (x1, y1) == SIZE
    assert (abs(x1 - x0 - 55) <= 2, abs(y1 - y0 - 32) <= 2) == (True, True)
    # remove the one that was found: chosen by a click, removed by a key
    tab.mouse.click(*person.on_screen(15, 25))
    person.press("Delete")
    assert [box[4] for box in person.boxes()] == ["blur"]
    drawn = person.boxes()
    # an instruction is rewritten
    tab.locator("#instructions textarea").nth(0).fill("put a hat on the woman")
    assert person.text("#count") == "1 decided"
    # the next ones: replaced, dropped, kept; the last one is left open
    tab.click("#next")
    tab.locator("#lookalikes button").nth(1).click()
    tab.click("#next")
    person.press("d")
    tab.click("#next")
    person.press("k")
    tab.click("#next")
    person.press("r")
    tab.locator("#list button", has_text="✕").click()
    assert person.text("#missing") == "There is no box to redact."
    assert person.text("#count") == "4 decided"
    # all of it survives a reload
    tab.reload()
    assert (person.text("#place"), person.text("#count")) == ("Picture 5 of 5", "4 decided")
    tab.locator("#overview button").nth(0).click()
    assert person.boxes() == drawn
    # the log has to know who decided
    tab.click("#export")
    assert "Write your name" in person.text("#notice")
    tab.fill("#reviewer", "B. Looker")
    decisions = read_decisions([person.download(tmp_path / "decisions.json")], found)
    actions = [decisions.get(one.digest, ("", None))[1] for one in found.pictures]
    assert [one and one.action for one in actions] == ["redact", "replace", "drop", "keep", None]
    (box,) = actions[0].boxes
    assert (box.x0, box.y0, box.x1, box.y1, box.how) == drawn[0]
    second = found.pictures[0].requests[1].instruction
    assert actions[0].instructions == ["put a hat on the woman", second]
    assert actions[1].look_alike == found.pictures[1].look_alikes[1].digest
    assert {reviewer for reviewer, _ in decisions.values()} == {"B. Looker"}
    assert (person.foreign, person.errors) == ([], [])
    person.context.close()


@pytest.mark.slow
def test_the_preview_shows_what_is_left_in_a_browser(review, chromium, tmp_path):
    """Also that zooming keeps boxes where they are, and that typing is no shortcut."""
    folder, _ = review
    person = Reviewer(chromium, folder)
    tab = person.tab
    person.press("r")
    person.drag((50, 5), (90, 60))
    person.press("b", "v")
    tab.evaluate("new Promise(requestAnimationFrame)")
    tab.screenshot(path=tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as shot:
        pixels = np.asarray(shot.convert("RGB"), int)
    x, y = map(int, person.on_screen(25, 35))
    assert (np.abs(pixels[y - 20 : y + 20, x - 20 : x + 20] - 128) <= 1).all()
    person.press("v")
    before = person.boxes()
    tab.mouse.move(*person.on_screen(40, 30))
    tab.mouse.wheel(0, -400)
    tab.evaluate("new Promise(requestAnimationFrame)")
    assert tab.evaluate("view.scale * current().width > innerWidth")
    person.drag((55, 40), (58, 40))
    moved = person.boxes()[1]
    assert near(moved, (before[1][0] + 3, before[1][1], before[1][2] + 3, before[1][3], "blur"))
    tab.locator("#instructions textarea").nth(0).fill("")
    assert person.text("#missing") == "An instruction is empty."
    tab.locator("#instructions textarea").nth(0).press("d")
    assert tab.evaluate("decision().action") == "redact"
    tab.locator("#instructions button").nth(0).click()
    assert person.text("#missing") == ""
    assert (person.foreign, person.errors) == ([], [])
    person.context.close()
