"""Look for what identifies people in a data set's pictures: launch/guides/evaluate.md.

python -m launch.evaluate deidentify scan --dataset=private --source=input_image_raw \
    --public=public_pictures --plates=my_plates:find --output=work/findings.json

Finds faces and text, plates with a detector of yours, EXIF data and positions, and look-alikes in a
folder of pictures that may be published. Detectors miss things: a person has to look at every
picture (deidentify review). The findings are as private as the pictures.
"""

import sys
from collections.abc import Callable

from absl import flags
from tqdm import tqdm

from launch.evaluations import benchmark_flags
from step1x_jax.data.paths import make_printable
from step1x_jax.evaluation.datasets import find_source
from step1x_jax.evaluation.deidentify.detectors import FaceDetector, PlateDetector, TextDetector
from step1x_jax.evaluation.deidentify.findings import write_findings
from step1x_jax.evaluation.deidentify.look_alikes import PublicPictures
from step1x_jax.evaluation.deidentify.scan import Detector, scan_pictures
from step1x_jax.evaluation.places import check_new
from step1x_jax.files import check_writable, user_path

_DETECTORS: dict[str, Callable[[], Detector]] = {"faces": FaceDetector, "text": TextDetector}

_FIND = flags.DEFINE_list(
    "find", list(_DETECTORS), "What to look for: faces, text; empty: only with --plates."
)
_PLATES = flags.DEFINE_string(
    "plates",
    None,
    "module:function that finds plates: of (H, W, 3) uint8 pixels it gives (x0, y0, x1, y1, score)"
    " for each.",
)
_PUBLIC = flags.DEFINE_string("public", None, "Folder of pictures that may be published.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the findings.", required=True)
flags.adopt_module_key_flags(benchmark_flags)
flags.register_validator(
    "find", lambda names: set(names) <= set(_DETECTORS), "--find takes faces and text."
)


def main() -> None:
    """Look at every picture, and write what was found."""
    benchmark = benchmark_flags.benchmark()
    output = user_path(_OUTPUT.value)
    check_new(output, "output")  # decisions belong to it
    check_writable(output)
    source = find_source(benchmark, benchmark_flags.SOURCE.value)
    samples = benchmark_flags.samples()
    detectors: dict[str, Detector] = {name: _DETECTORS[name]() for name in _FIND.value}
    if _PLATES.value:
        sys.path.insert(0, "")  # modules in the folder where the command runs
        detectors["plates"] = PlateDetector(_PLATES.value)
    public = None
    if _PUBLIC.value:
        with tqdm(desc="public pictures", unit="picture") as bar:
            public = PublicPictures(user_path(_PUBLIC.value), bar.update)
    with tqdm(total=len(samples), desc="scanning", unit="sample") as bar:
        findings = scan_pictures(
            samples,
            benchmark=benchmark.name,
            source=source,
            detectors=detectors,
            public=public,
            tell=bar.update,
        )
    write_findings(output, findings)
    for line in findings.unreadable:
        print(make_printable(f"not scanned, {line}"), file=sys.stderr)
    with_boxes = sum(bool(picture.boxes) for picture in findings.pictures)
    positions = sum("GPS position" in picture.metadata for picture in findings.pictures)
    skipped = f", {public.unreadable} public pictures are unreadable" if public else ""
    print(
        f"{_OUTPUT.value}: {len(findings.pictures)} pictures, {with_boxes} with faces, text or"
        f" plates, {positions} with a position{skipped}; detectors miss things: review all of them"
    )
