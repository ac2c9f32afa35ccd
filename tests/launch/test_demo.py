"""launch.demo: its queue and its pictures, the page through gradio's client and in a browser."""

import contextlib
import io
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image, ImageOps

from launch.demonstration.queue import MOST_WAITING, Cancelled, EditQueue
from launch.demonstration.session import MOST_ENTRIES, Session
from step1x_jax.editing.progress import Step
from step1x_jax.errors import UserError
from step1x_jax.sampling.config import SamplingConfig

ROOT = pathlib.Path(__file__).parents[2]


def picture(seed=0, size=(96, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return Image.fromarray(pixels).resize(size)


class Slow:
    """An edit whose steps are made one by one, as the test says."""

    def __init__(self, steps=5):
        self.made, self.total, self.turns = [], steps, queue.SimpleQueue()

    def __call__(self, on_step):
        for number in range(1, self.total + 1):
            self.turns.get(timeout=60)
            self.made.append(number)
            on_step(Step(number, self.total, (0,)))
        return [picture()]

    def step(self, count=1):
        for _ in range(count):
            self.turns.put(None)


@pytest.fixture
def edits():
    made = EditQueue()
    yield made
    made.close()


def test_edits_are_made_in_order_and_know_their_place(edits):
    slow = [Slow(2), Slow(1), Slow(1)]
    jobs = [edits.submit(work) for work in slow]
    news = [job.news() for job in jobs]
    assert [next(one) for one in news] == [0, 1, 2]
    slow[1].step()  # may start, and must not before the first is made
    slow[0].step()
    assert next(news[0]).number == 1
    assert slow[1].made == []
    slow[0].step()
    assert [type(item) for item in news[0]] == [Step, list]
    assert next(news[1]) == 0
    assert [type(item) for item in news[1]] == [Step, list]
    assert [next(news[2]), next(news[2])] == [1, 0]
    slow[2].step()
    assert next(news[2]).number == 1


def test_a_cancelled_edit_makes_no_further_step(edits):
    slow, other = Slow(), Slow(1)
    job, next_job = edits.submit(slow), edits.submit(other)
    news = job.news()
    slow.step(2)
    assert [next(news), next(news).number, next(news).number] == [0, 1, 2]
    edits.cancel(job)
    with pytest.raises(Cancelled):
        next(news)
    slow.step(3)
    other.step()
    assert type([*next_job.news()][-1]) is list
    assert slow.made == [1, 2, 3]  # the third was being made


def test_a_cancelled_edit_that_waits_is_never_made(edits):
    slow, other, last = Slow(1), Slow(1), Slow(1)
    jobs = [edits.submit(work) for work in (slow, other, last)]
    edits.cancel(jobs[1])
    news = jobs[2].news()
    assert [next(news), next(news)] == [2, 1]
    for work in (slow, other, last):
        work.step()
    assert type([*news][-1]) is list
    assert other.made == []
    with pytest.raises(Cancelled):
        [*jobs[1].news()]


def test_an_error_belongs_to_its_edit(edits):
    def fails(on_step):
        raise UserError("too large.")

    job, other = edits.submit(fails), Slow(1)
    with pytest.raises(UserError, match="too large"):
        [*job.news()]
    news = edits.submit(other).news()
    other.step()
    assert type([*news][-1]) is list


def test_only_so_many_wait(edits):
    gate = threading.Event()

    def work(on_step):
        assert gate.wait(60)
        return [picture()]

    try:
        jobs = [edits.submit(work) for _ in range(MOST_WAITING + 1)]
        with pytest.raises(UserError, match=f"{MOST_WAITING} edits are waiting"):
            edits.submit(work)
        edits.cancel(jobs[-1])
        edits.submit(work)
    finally:
        gate.set()


def test_pictures_are_stored_whole_and_removed_in_the_end(tmp_path):
    session = Session(tmp_path)
    whole = picture(1, (1500, 900))
    source = session.add(whole, "photo.png")
    result = session.add(ImageOps.invert(whole), "negative", source)
    np.testing.assert_array_equal(source.picture(), whole)
    np.testing.assert_array_equal(result.picture(), ImageOps.invert(whole))
    assert (source.before, result.before) == (None, source.view)
    assert Image.open(source.view).size == (1280, 768)
    assert Image.open(source.thumbnail).size == (256, 154)
    other = Session(tmp_path)
    kept = other.add(whole, "photo.png")
    session.close()
    assert [path.parent for path in tmp_path.rglob("*.png")] == [kept.path.parent]
    assert len(kept.path.parent.name) >= 20  # nobody guesses it


def test_the_oldest_pictures_are_removed_but_not_the_source(tmp_path):
    session = Session(tmp_path)
    session.source = session.add(picture(), "first")
    second = session.add(picture(), "second")
    for number in range(MOST_ENTRIES):
        session.add(picture(), str(number), session.source)
    assert len(session.entries) == MOST_ENTRIES
    assert session.entries[0] is session.source
    assert not second.path.exists()
    named = {p for e in session.entries for p in (e.path, e.view, e.thumbnail, e.before)} - {None}
    assert named == {path for path in tmp_path.rglob("*.*") if path.is_file()}


def command(code, *flags):
    words = [f"sys.argv = ['launch/demo.py', *{list(flags)!r}]", "from launch import demo"]
    text = "\n".join(["import sys", code, *words, "demo.run(demo.main)"])
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


@pytest.mark.slow
def test_without_gradio_one_sentence_says_what_to_install():
    result = command("sys.modules['gradio'] = None", "--model=quickstart")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: the page needs gradio")
    assert "pip install -e '.[demo]'" in result.stderr


# In a process of its own, for commands share the names of flags.
PASSWORDS = """
from absl import flags
from launch import demo

for case in %r:
    flags.FLAGS(["demo", "--model=quickstart", *case])
    print(demo._password(), demo._password())
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
"""


@pytest.mark.slow
def test_off_this_machine_a_password_is_asked():
    cases = {
        (): "None",
        ("--host=localhost",): "None",
        ("--host=0.0.0.0",): "made",
        ("--share",): "made",
        ("--password=ours",): "ours",
        ("--share", "--password=ours"): "ours",
    }
    result = subprocess.run(
        [sys.executable, "-c", PASSWORDS % [*cases]],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    for line, wanted in zip(result.stdout.splitlines(), cases.values(), strict=True):
        first, second = line.split()
        if wanted == "made":
            assert first != second
            assert min(len(first), len(second)) >= 12
        else:
            assert first == second == wanted


class Stub:
    """An editor that inverts, and remembers what it was told; `hold` stops it after a step."""

    known_edits = (("Make it night", "改成夜景"), ("Add a white frame",))

    def __init__(self):
        self.sampling = SamplingConfig(size=64, num_steps=4, guidance=2.0)
        self.calls, self.steps, self.hold = [], [], {}
        self.ended = threading.Event()

    def edit(self, image, instruction, *, on_step, steps, **settings):
        self.calls.append({"image": image, "instruction": instruction, "steps": steps, **settings})
        self.steps.append([])
        made = self.steps[-1]
        self.ended.clear()
        try:
            if "wrong" in instruction:
                raise UserError("the instruction is wrong; give another.")
            if "broken" in instruction:
                raise RuntimeError("a secret of the machine")
            for number in range(1, steps + 1):
                made.append(number)
                shown = [image.resize((32, 32))] if number % settings["previews"] == 0 else None
                on_step(Step(number, steps, (0,), shown))
                if number in self.hold:
                    assert self.hold[number].wait(60)
            return [ImageOps.invert(image)]
        finally:
            self.ended.set()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(editor, folder, **options):
    """The page at an address."""
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    from launch.demonstration.page import Page, serve

    edits = EditQueue()
    page = Page(editor, edits, folder / "pictures")
    settings = {"host": "127.0.0.1", "share": False, "password": None, "upload_limit": 1}
    try:
        (url,) = serve(page, **{"port": free_port(), **settings, **options})
        yield types.SimpleNamespace(url=url, page=page, editor=editor, folder=folder)
    finally:
        page.blocks.close(verbose=False)
        edits.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where gradio keeps files while these tests run."""
    folder = tmp_path_factory.mktemp("demo").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture(scope="module")
def server(place):
    with serving(Stub(), place) as served:
        yield served


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "my photo.png"
    picture(3).save(path)
    return path


class Person:
    """Somebody at the page, by gradio's client."""

    def __init__(self, url, **options):
        from gradio_client import Client

        self.client = Client(url, verbose=False, **options)

    def upload(self, path):
        from gradio_client import handle_file

        return self.client.predict(handle_file(str(path)), api_name="/upload")

    def request(self, instruction, steps=4, seed=0, keep=False, painted=None):
        return self.client.submit(
            instruction, "blurry", painted, keep, steps, 2.0, "exact", 64, seed, api_name="/edit"
        )

    def edit(self, *arguments, **options):
        return self.request(*arguments, **options).result(timeout=120)


def history(outputs):
    """Captions of the history."""
    return [item["caption"] for item in outputs[-1]["value"]]


@pytest.mark.demo
def test_an_edit_by_the_client(server, photo):
    person = Person(server.url)
    assert history(person.upload(photo)) == ["my photo.png"]
    outputs = person.edit("Make it night", seed=7, keep=True)
    call = server.editor.calls[-1]
    np.testing.assert_array_equal(call.pop("image"), picture(3))
    assert call == {
        "instruction": "Make it night", "negative": "blurry", "steps": 4, "guidance_scale": 2.0,
        "size": 64, "seed": 7, "mask": None, "keep_unchanged": True, "previews": 1,
        "speed": "exact",
    }  # fmt: skip
    assert history(outputs) == ["my photo.png", "Make it night · seed 7"]
    (png,) = server.folder.glob("pictures/*/edited-*.png")
    np.testing.assert_array_equal(Image.open(png), ImageOps.invert(picture(3)))
    values = [o.get("value") for o in outputs if isinstance(o, dict)]
    (download,) = [value for value in values if str(value).endswith("edited-2.png")]
    assert pathlib.Path(download).read_bytes() == png.read_bytes()


@pytest.mark.demo
def test_what_is_wrong_is_one_sentence_and_the_page_goes_on(server, tmp_path, photo):
    from gradio_client.exceptions import AppError

    person = Person(server.url)
    with pytest.raises(AppError, match="there is no picture; upload one"):
        person.edit("Make it night")
    text = tmp_path / "notes.png"
    text.write_text("not a picture at all\n")
    with pytest.raises(AppError, match=r"notes\.png is not a readable picture: it is a text file"):
        person.upload(text)
    postscript = tmp_path / "drawing.eps"  # Pillow would start another program
    postscript.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(AppError, match="a PostScript file"):
        person.upload(postscript)
    person.upload(photo)
    for instruction, sentence in (
        (" ", "the instruction is empty"),
        ("wrong", "the instruction is wrong; give another"),
        ("broken", "the edit failed; the terminal says why"),
    ):
        with pytest.raises(AppError, match=sentence):
            person.edit(instruction)
    assert len(history(person.edit("Make it night"))) == 2


@pytest.mark.demo
def test_large_uploads_are_refused(server, tmp_path, photo):
    large = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)).save(large)
    assert large.stat().st_size > 1 << 20
    import httpx  # gradio's own

    for path, status in ((large, 413), (photo, 200)):
        address = f"{server.url}gradio_api/upload"
        assert httpx.post(address, files={"files": path.read_bytes()}).status_code == status


@pytest.mark.demo
def test_cancelling_by_the_client(server, photo):
    person = Person(server.url)
    person.upload(photo)
    server.editor.hold = {3: threading.Event()}
    try:
        request = person.request("Make it night", steps=50)
        for outputs in request:
            if "Step 3 of 50" in str(outputs):
                break
        person.client.predict(api_name="/cancel")
    finally:
        server.editor.hold.pop(3).set()
    assert "Cancelled." in str(request.result(timeout=60))
    assert server.editor.ended.wait(60)
    assert server.editor.steps[-1] == [1, 2, 3, 4]  # it notices when it tells of the next step
    assert len(history(person.edit("Make it night"))) == 2


@pytest.mark.demo
def test_two_people_have_histories_of_their_own(server, tmp_path, photo):
    other = tmp_path / "other.png"
    picture(4).save(other)
    first, second = Person(server.url), Person(server.url)
    first.upload(photo)
    second.upload(other)
    mine, theirs = first.edit("Make it night"), second.edit("Add a white frame")
    assert history(mine) == ["my photo.png", "Make it night · seed 0"]
    assert history(theirs) == ["other.png", "Add a white frame · seed 0"]


@pytest.mark.demo
def test_a_password_is_asked(place):
    with serving(Stub(), place, password="ours") as served:
        for auth in (None, ("me", "theirs")):
            with pytest.raises(Exception, match=r"(?i)login|auth|401|credentials"):
                Person(served.url, auth=auth).client.predict(api_name="/dice")
        assert Person(served.url, auth=("anyone", "ours")).client.predict(api_name="/dice") >= 0


@pytest.mark.demo
def test_a_port_that_is_taken_is_one_sentence(server):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot be served at 127.0.0.1:{port}"):  # noqa: SIM117
        with serving(Stub(), server.folder, port=port):
            pass


@pytest.mark.demo
def test_strokes_of_the_brush_as_a_mask():
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    from launch.demonstration.page import painted_mask

    layer = np.zeros((40, 60, 4), np.uint8)
    assert painted_mask(None, (120, 80)) is None
    assert painted_mask({"layers": []}, (120, 80)) is None
    assert painted_mask({"layers": [layer]}, (120, 80)) is None
    layer[10:20, 30:60] = (255, 45, 120, 153)
    other = np.zeros_like(layer)
    other[30:, :10, 3] = 255
    mask = painted_mask({"layers": [layer, other]}, (120, 80))
    wanted = np.zeros((80, 120), bool)
    wanted[20:40, 60:] = True
    wanted[60:, :20] = True
    assert mask.mode == "L"
    assert set(np.unique(mask)) == {0, 255}
    assert ((np.asarray(mask) > 0) != wanted).sum() <= 8  # corners of what is enlarged


class Real(Stub):
    """The quickstart's editor, with the notes of Stub."""

    def __init__(self):
        from step1x_jax.editing.editor import Editor

        super().__init__()
        self.editor = Editor.load("quickstart")
        self.sampling, self.known_edits = self.editor.sampling, self.editor.known_edits

    def edit(self, image, instruction, *, on_step, **settings):
        self.calls.append({"image": image, "instruction": instruction, **settings})
        self.steps.append([])
        made = self.steps[-1]
        self.ended.clear()

        def noted(step):
            made.append(step.number)
            on_step(step)
            if step.number in self.hold:
                assert self.hold[step.number].wait(60)

        try:
            return self.editor.edit(image, instruction, on_step=noted, **settings)
        finally:
            self.ended.set()


@pytest.fixture(scope="module")
def real(place):
    with serving(Real(), place) as served:
        yield served


class Visitor:
    """Somebody with the page in a browser of their own; `foreign`: what that asked others for."""

    def __init__(self, chromium, url):
        self.context = chromium.new_context(viewport={"width": 1280, "height": 900})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(90_000)
        self.foreign = []
        self.tab.on("request", lambda request: self._note(request.url, url))
        self.tab.goto(url)
        self.tab.wait_for_selector("#edit")

    def _note(self, address, url):
        if not address.startswith((url, "data:", "blob:")):
            self.foreign.append(address)

    def upload(self, path):
        self.tab.set_input_files("#picture input[type=file]", str(path))

    def ask(self, instruction, steps=3):
        self.tab.fill("#instruction textarea", instruction)
        self.tab.click("#more button >> nth=0")
        self.set_steps(steps)
        self.tab.click("#more button >> nth=0")
        self.tab.click("#edit")

    def set_steps(self, steps):
        """Fills the field until the page has noted it: an opening panel loses what is filled."""
        noted = "steps => document.querySelector('#steps input[type=range]').value == steps"
        for _ in range(100):
            self.tab.fill("#steps input[type=number]", str(steps))
            self.tab.press("#steps input[type=number]", "Tab")
            if self.tab.evaluate(noted, str(steps)):
                return
            self.tab.wait_for_timeout(200)
        raise AssertionError(f"the page does not take {steps} steps")

    def says(self, text):
        self.tab.wait_for_selector(f"#progress :text('{text}')")

    def pictures(self, count):
        """Addresses of the history's pictures, when there are so many."""
        self.tab.wait_for_function(
            "count => document.querySelectorAll('#history img').length == count", arg=count
        )
        return [image.get_attribute("src") for image in self.tab.locator("#history img").all()]


@pytest.mark.demo
@pytest.mark.slow
def test_in_a_browser(real, chromium, photo):
    person = Visitor(chromium, real.url)
    person.upload(photo)
    person.pictures(1)
    person.tab.click("text=Add a white frame")  # a suggestion
    person.tab.wait_for_function(
        "document.querySelector('#instruction textarea').value == 'Add a white frame'"
    )

    # Progress and a preview while it works, which is held at its second step.
    real.editor.hold = {2: threading.Event()}
    person.ask("Make it night", steps=3)
    person.says("Step 2 of 3")
    assert person.tab.get_attribute("#progress progress", "value") == "2"
    person.tab.wait_for_selector("#preview img")
    assert not person.tab.is_visible("#edit")
    real.editor.hold.pop(2).set()
    person.says("Make it night · seed 0")
    person.pictures(2)
    assert real.editor.steps[-1] == [1, 2, 3]
    person.tab.wait_for_function("document.querySelectorAll('#compare img').length == 2")
    with person.tab.expect_download() as download:
        person.tab.click("#download")
    with Image.open(io.BytesIO(pathlib.Path(download.value.path()).read_bytes())) as result:
        assert (result.format, result.size) == ("PNG", picture(3).size)
        stored = np.asarray(result)

    # Cancelling at the third of twenty steps, and an edit of the result after that.
    real.editor.hold = {3: threading.Event()}
    person.ask("Make it night", steps=20)
    person.says("Step 3 of 20")
    person.tab.click("#cancel")
    person.says("Cancelled.")
    real.editor.hold.pop(3).set()
    assert real.editor.ended.wait(60)
    assert real.editor.steps[-1] == [1, 2, 3, 4]
    person.tab.click("#history button >> nth=1")
    person.tab.wait_for_selector("#picture :text('Picture: Make it night')")
    person.ask("Add a white frame", steps=2)
    person.pictures(3)
    np.testing.assert_array_equal(real.editor.calls[-1]["image"], stored)

    # Back to what was uploaded; only a painted part of it.
    person.tab.click("#history button >> nth=0")
    person.tab.wait_for_selector("#picture :text('Picture: my photo.png')")
    person.tab.click("#part button >> nth=0")
    canvas = person.tab.locator("#brush canvas").first
    canvas.scroll_into_view_if_needed()
    person.tab.wait_for_timeout(1500)  # it fades in
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    person.tab.mouse.move(x - 10, y)
    person.tab.mouse.down()
    person.tab.mouse.move(x + 10, y, steps=5)
    person.tab.mouse.up()
    person.ask("Make it night", steps=2)
    person.pictures(4)
    mask = np.asarray(real.editor.calls[-1]["mask"]) > 0
    assert mask.shape == (64, 96)
    assert mask[32, 48]
    assert 0 < mask.mean() < 0.5
    assert person.foreign == []
    person.context.close()


@pytest.mark.demo
@pytest.mark.slow
def test_a_bad_file_in_a_browser(server, chromium, photo, tmp_path):
    """One sentence; what was there before can still be edited."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture at all")
    person = Visitor(chromium, server.url)
    person.upload(bad)  # on a page without a picture
    person.tab.wait_for_selector(".toast-body :text('bad.png is not a readable picture')")
    person.tab.wait_for_selector("#picture img", state="detached")
    person.upload(photo)
    (before,) = person.pictures(1)
    person.tab.click("#picture button[aria-label='Remove Image'], #picture button[title='Clear']")
    person.tab.wait_for_selector(".toast-body", state="detached")
    person.upload(bad)
    person.tab.wait_for_selector(".toast-body")
    assert person.pictures(1) == [before]
    person.upload(photo)
    person.pictures(2)
    person.ask("Make it night")
    person.pictures(3)
    person.context.close()


@pytest.mark.demo
@pytest.mark.slow
def test_two_in_browsers_wait_for_each_other(real, chromium, photo, tmp_path):
    path = tmp_path / "other.png"
    picture(4).save(path)
    first, second = Visitor(chromium, real.url), Visitor(chromium, real.url)
    first.upload(photo)
    second.upload(path)
    first.pictures(1)
    second.pictures(1)
    real.editor.hold = {1: threading.Event()}
    first.ask("Make it night", steps=2)
    first.says("Step 1 of 2")
    second.ask("Add a white frame", steps=2)
    second.says("Waiting: 1 edit before yours.")
    real.editor.hold.pop(1).set()
    mine, theirs = first.pictures(2), second.pictures(2)
    assert set(mine).isdisjoint(theirs)
    first.context.close()

    # Whoever leaves wants the edit no longer.
    real.editor.hold = {2: threading.Event()}
    second.ask("Make it night", steps=50)
    second.says("Step 2 of 50")
    second.context.close()
    real.editor.hold.pop(2).set()
    assert real.editor.ended.wait(60)
    assert len(real.editor.steps[-1]) < 50


@pytest.mark.demo
@pytest.mark.slow
def test_the_command_serves_and_cleans_up(tmp_path, photo):
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    flags = ["--model=quickstart", f"--port={free_port()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.demo", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("open http://127.0.0.1:")
        url = flags[1].replace("--port=", "http://127.0.0.1:")
        person = Person(url)
        person.upload(photo)
        outputs = person.edit("Make it night", steps=2)
        assert len(history(outputs)) == 2
        assert len([*tmp_path.glob("step1x_demo_*/pictures/*/edited-2.png")]) == 1
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted")
    assert not [*tmp_path.glob("step1x_demo_*")]
