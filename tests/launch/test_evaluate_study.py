"""launch.evaluate study: the commands, and the page in a browser."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.method_pictures import find_pictures
from step1x_jax.evaluation.study.answers import read_answers
from step1x_jax.evaluation.study.build import build_study
from step1x_jax.evaluation.study.score import score_study
from tests.evaluation.toy import toy_rows, toy_samples, write_listed, write_results
from tests.launch.evaluate_command import evaluate


def test_built_answered_and_scored(tmp_path, capsys):
    """The toy benchmark through both commands; people answer as if they saw who made what."""
    write_listed(tmp_path / "data", toy_rows())
    for method in ("mine", "theirs"):
        write_results(tmp_path / "results" / method, toy_samples(), method)
    with evaluate("study_build", ("launch.evaluations.benchmark_flags",)) as (build, _):
        build(
            f"--dataset={tmp_path}/data", f"--results={tmp_path}/results",
            "--methods=mine,theirs", "--participants=4", "--samples_each=22",
            f"--output={tmp_path}/study", f"--key={tmp_path}/key.json",
        )  # fmt: skip
    assert "44 samples, 4 participants with 22 samples each" in capsys.readouterr().out
    key = json.loads((tmp_path / "key.json").read_text())
    (tmp_path / "answers").mkdir()
    for person, names in key["participants"].items():
        of = [p for name in names for p in key["samples"][name]["pictures"].items()]
        ratings = {picture: 2 if method == "mine" else 4 for picture, method in of}
        answers = {
            "format": 1, "study": key["study"], "participant": person,
            "exported": "2026-11-30T10:00:00.000Z", "ratings": ratings,
        }  # fmt: skip
        (tmp_path / "answers" / f"{person}.json").write_text(json.dumps(answers))
    with evaluate("study_score") as (score, _):
        scores = tmp_path / "scores.json"
        score(f"--key={tmp_path}/key.json", f"--answers={tmp_path}/answers", f"--output={scores}")
        text = capsys.readouterr().out
        for title in ("EN full", "EN intersection", "CN full", "CN intersection"):
            assert f"## {title}\n" in text
        assert text.count("| mine | 4.000 | ") == 4
        assert text.count("| theirs | 8.000 | [8.000, 8.000] |") == 2  # of the full set
        assert {row["average"]["mean"] for row in json.loads(scores.read_text())["rows"]} == {4, 8}
        with pytest.raises(UserError, match="has no JSON files"):
            score(f"--key={tmp_path}/key.json", f"--answers={tmp_path}/results")


class Participant:
    """Somebody with a page from a disk; `foreign`: what it asked others for; `errors`: its own."""

    def __init__(self, chromium, page):
        self.context = chromium.new_context(viewport={"width": 1280, "height": 860})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(20_000)
        self.foreign, self.errors = [], []
        self.tab.on("request", lambda request: self._note(request.url, page.parent.as_uri()))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.errors.append(message.text))
        self.tab.goto(page.as_uri())

    def _note(self, address, place):
        if not address.startswith((place, "data:", "blob:")):
            self.foreign.append(address)

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    def text(self, selector):
        return self.tab.locator(selector).inner_text()

    def chosen(self):
        """The levels of the sample's results, as they are shown."""
        groups = self.tab.locator(".levels").all()
        set_in = [group.locator('[aria-checked="true"] b').all_inner_texts() for group in groups]
        return [int(found[0]) if found else None for found in set_in]

    def framed(self):
        return self.tab.locator("figure.framed figcaption").inner_text()


@pytest.fixture
def study(tmp_path):
    """Three samples of three methods, for two participants, and the key."""
    samples = toy_samples(1, ("color_alter", "ps_human", "text_change"), ("en",))
    methods = {}
    for method in ("a", "b", "c"):
        folder = write_results(tmp_path / method, samples, method)
        methods[method] = find_pictures(folder, [one.id for one in samples], "fullset").get
    return tmp_path / "study", build_study(
        samples, methods, tmp_path / "study", tmp_path / "key.json",
        benchmark="gedit", source="input_image", participants=2, each=0,
    )  # fmt: skip


@pytest.mark.slow
def test_rating_by_keyboard_in_a_browser(study, chromium, tmp_path):
    folder, key = study
    person = Participant(chromium, folder / "p01.html")
    tab = person.tab
    # every picture is there
    loaded = "[...document.querySelectorAll('main img')].map((one) => one.decode())"
    tab.evaluate(f"Promise.all({loaded})")
    images = tab.locator("main img").all()
    widths = [image.evaluate("image => image.naturalWidth") for image in images]
    assert widths == [1024] * 4
    assert tab.locator("#results img").count() == 3
    first = key.samples[key.participants["p01"][0]]
    assert person.text("#instruction") == f"make it {first.task} 0"
    # rating moves the frame on; the last picture keeps it
    person.press("5")
    assert (person.chosen(), person.framed()) == ([5, None, None], "Result 2")
    person.press("1", "3", "2")
    assert (person.chosen(), person.framed()) == ([5, 1, 2], "Result 3")
    # a click corrects
    tab.locator(".levels").nth(1).locator("button").nth(3).click()
    assert person.chosen() == [5, 4, 2]
    assert person.text("#count") == "3 of 9 pictures rated"
    # what is kept survives a reload, at the sample where it was left
    person.press("Enter", "1")
    tab.reload()
    assert person.text("#place") == "Sample 2 of 3"
    assert (person.chosen(), person.framed()) == ([1, None, None], "Result 2")
    person.press("Backspace")
    assert person.chosen() == [5, 4, 2]
    # another participant's page in the same browser knows nothing of it
    other = person.context.new_page()
    other.goto((folder / "p02.html").as_uri())
    assert other.locator("#count").inner_text() == "0 of 9 pictures rated"
    other.close()
    # a partial export
    with tab.expect_download() as download:
        tab.click("#export")
    download.value.save_as(tmp_path / "early.json")
    assert download.value.suggested_filename == f"answers-{key.study}-p01.json"
    # the rest, then all
    tab.click("#next")
    person.press("2", "3")
    tab.click("#next")
    person.press("4", "4", "4")
    assert "All pictures are rated" in person.text("#notice")
    with tab.expect_download() as download:
        tab.click("#export")
    download.value.save_as(tmp_path / "all.json")
    answers = read_answers([tmp_path / "early.json", tmp_path / "all.json"], key)
    assert [(note.rated, note.used) for note in answers.notes] == [(4, False), (9, True)]
    # the names on the page lead to the right methods
    shown = tab.evaluate("data.samples.map((one) => one.pictures.map((p) => p.id))")
    levels = [[5, 4, 2], [1, 2, 3], [4, 4, 4]]
    expected = {
        method: sum(
            2 * level
            for names, row in zip(shown, levels, strict=True)
            for name, level in zip(names, row, strict=True)
            if any(s.pictures.get(name) == method for s in key.samples.values())
        )
        / 3
        for method in "abc"
    }
    rows = {row.method: row for row in score_study(key, answers) if row.subset == "full"}
    assert {m: rows[m].average.mean for m in rows} == pytest.approx(expected, abs=1e-12)
    assert (person.foreign, person.errors) == ([], [])
    person.context.close()


@pytest.mark.slow
def test_enlarged_pictures_and_the_source_in_a_browser(study, chromium):
    folder, _ = study
    person = Participant(chromium, folder / "p02.html")
    tab = person.tab
    files = tab.evaluate("[current().source, ...current().pictures.map((one) => one.file)]")

    def sources():
        return [i.get_attribute("src") for i in tab.locator("#results img").all()]

    def large():
        return tab.get_attribute("#large", "src"), tab.get_attribute("#large", "style")

    tab.keyboard.down("s")
    assert sources() == [files[0]] * 3
    tab.keyboard.up("s")
    assert sources() == files[1:]
    person.press("z")
    fitted = large()
    assert fitted[0] == files[1]
    tab.mouse.move(500, 400)
    tab.mouse.wheel(0, -300)
    tab.evaluate("new Promise(requestAnimationFrame)")
    # another picture at the same place, the source too; rating is possible there
    zoomed = large()[1]
    person.press("ArrowRight")
    assert large() == (files[2], zoomed)
    person.press("4")
    assert person.text("#caption") == "Result 2: good"
    person.press("ArrowLeft", "ArrowLeft")
    assert (large(), person.text("#caption")) == ((files[0], zoomed), "Source")
    tab.mouse.down()
    tab.mouse.move(520, 410)
    tab.mouse.up()
    assert large()[1] != zoomed
    person.press("Escape")
    assert not tab.locator("#viewer").is_visible()
    assert person.chosen() == [None, 4, None]
    person.press("?")
    assert tab.locator("#keys").is_visible()
    person.press("5", "Escape")
    assert person.chosen() == [None, 4, None]
    assert (person.foreign, person.errors) == ([], [])
    person.context.close()
