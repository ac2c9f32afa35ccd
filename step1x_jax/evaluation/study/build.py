"""A study as a folder of pages and pictures that tell nothing of which method made what."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image, open_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.pages import render_page
from step1x_jax.evaluation.places import check_new, is_inside
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.evaluation.study.dealing import deal_samples
from step1x_jax.evaluation.study.key import LEVELS, KeySample, StudyKey, write_key
from step1x_jax.evaluation.study.secret import Secret
from step1x_jax.files import check_writable, making_folder

FindPicture = Callable[[SampleId], epath.Path | None]  # a method's picture of a sample

LONG_SIDE = 1024  # pixels, of every picture of a study
SAME_SHAPE = 1.05  # ratio of aspect ratios up to which a picture is stretched to the source's
BACKGROUND = (128, 128, 128)  # around a picture of another shape
JPEG_QUALITY = 95  # and colours at full resolution: no difference that can be seen
PICTURES = "pictures"
FILE_TIME = 1_000_000_000  # seconds since 1970, of every file; ZIP archives know none before 1980


def build_study(
    samples: Iterable[Sample],
    methods: Mapping[str, FindPicture],
    folder: epath.PathLike,
    key_path: epath.PathLike,
    *,
    benchmark: str,
    source: str,
    participants: int,
    each: int,
    seed: bytes | None = None,
) -> StudyKey:
    """Make a folder with a page for each participant, and the key that belongs to it.

    A sample is in the study if all methods have a picture of it: so every person compares all of
    them. Its pictures have the shape of its source and LONG_SIDE pixels along the longer side,
    whatever size they were edited at; they are written anew, without metadata, under names that
    come from the secret alone.

    Args:
      samples: of the benchmark.
      methods: in the order of tables: finds each one's pictures, None where there is none.
      folder: to make; all of it may be given to participants.
      key_path: the JSON file of the key, outside the folder.
      benchmark: its name.
      source: column of the source pictures.
      participants: how many people take part.
      each: samples that each of them rates; 0 is all of them.
      seed: of the secret; None draws one.

    Returns:
      The key.

    Raises:
      UserError: a place is taken or not writable, the key would be in the folder, a source picture
        is unreadable, no sample has pictures of all methods, or see `deal_samples`.
    """
    _check_places(epath.Path(folder), epath.Path(key_path))
    if not methods:
        raise UserError("a study needs the pictures of one method or more; name them (--methods).")
    secret = Secret(seed)
    study, left_out = secret.name("study")[:8], Counter(dict.fromkeys(methods, 0))
    shown: dict[SampleId, dict[str, Any]] = {}  # as pages have them
    key_samples: dict[str, KeySample] = {}
    with making_folder(folder) as temporary:
        (temporary / PICTURES).mkdir()
        for sample in samples:
            results = _open_results(sample.id, methods, left_out)
            if results is None:
                continue
            name = secret.name("sample", *sample.id)
            pictures = {secret.name("picture", m, *sample.id): m for m in methods}
            original = _open_source(sample, source)
            size = _study_size(*original.size)
            source_name = secret.name("source", *sample.id)
            images = {picture: results[method] for picture, method in pictures.items()}
            for file, image in sorted((images | {source_name: original}).items()):
                _save(_equalised(image, size), temporary, file)
            shown[sample.id] = {
                "id": name,
                "instruction": sample.instruction,
                "width": size[0],
                "height": size[1],
                "source": _file(source_name),
                "pictures": [{"id": picture, "file": _file(picture)} for picture in pictures],
            }
            key_samples[name] = KeySample(*sample.id, sample.intersection, pictures)
        if not shown:
            raise UserError(
                f"no sample has pictures of all of {', '.join(methods)}; look at the folder of"
                " results, or name other methods."
            )
        hands = deal_samples(list(shown), participants, each, secret)
        digits = max(2, len(str(participants)))
        names = [f"p{number:0{digits}}" for number in range(1, participants + 1)]
        for participant, hand in zip(names, hands, strict=True):
            pages = [_shuffled(shown[id], participant, secret) for id in hand]
            _write_page(temporary, study, participant, pages)
        _hide_times(temporary)
        key = StudyKey(
            format=1,
            study=study,
            secret=secret.seed.hex(),
            benchmark=benchmark,
            source=source,
            methods=list(methods),
            samples=key_samples,
            participants={
                participant: [shown[id]["id"] for id in hand]
                for participant, hand in zip(names, hands, strict=True)
            },
            left_out=dict(left_out),
        )
        write_key(key_path, key)  # last, but before the folder appears: without it that is nothing
    return key


def _check_places(folder: epath.Path, key_path: epath.Path) -> None:
    """Raise UserError unless both can be made, and the key outside of the folder."""
    if is_inside(key_path, folder):
        raise UserError(
            f"--key={key_path} is in the folder that participants get; put it elsewhere."
        )
    check_new(folder, "output")
    check_new(key_path, "key")
    check_writable(key_path)


def _open_results(
    id: SampleId, methods: Mapping[str, FindPicture], left_out: Counter[str]
) -> dict[str, Image.Image] | None:
    """Each method's picture; None, and counted, if one has none that can be read."""
    results = {}
    for method, find in methods.items():
        path = find(id)
        try:
            if path is not None:
                results[method] = open_image(path)
        except UserError:
            pass
        if method not in results:
            left_out[method] += 1
    return results if len(results) == len(methods) else None


def _open_source(sample: Sample, source: str) -> Image.Image:
    if source not in sample.pictures:
        raise UserError(
            f"the samples have no picture {source}, but {', '.join(sample.pictures)}; give one of"
            " these (--source)."
        )
    return decode_image(sample.pictures[source](), " ".join(filter(None, sample.id)))


def _study_size(width: int, height: int) -> tuple[int, int]:
    scale = LONG_SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _equalised(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at a size: stretched where that is not seen, else whole on grey."""
    ratio = picture.width / picture.height / (size[0] / size[1])
    if max(ratio, 1 / ratio) <= SAME_SHAPE:
        return picture.resize(size, Image.Resampling.LANCZOS)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = Image.new("RGB", size, BACKGROUND)
    place = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    canvas.paste(picture.resize(inner, Image.Resampling.LANCZOS), place)
    return canvas


def _file(name: str) -> str:
    return f"{PICTURES}/{name}.jpg"


def _save(picture: Image.Image, folder: epath.Path, name: str) -> None:
    with open(folder / _file(name), "wb") as stream:
        picture.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def _shuffled(sample: dict[str, Any], participant: str, secret: Secret) -> dict[str, Any]:
    """The sample with its pictures in this participant's order."""
    by_name = {picture["id"]: picture for picture in sample["pictures"]}
    order = secret.shuffled(by_name, "pictures", participant)
    return sample | {"pictures": [by_name[name] for name in order]}


def _write_page(
    folder: epath.Path, study: str, participant: str, samples: Sequence[dict[str, Any]]
) -> None:
    data = {
        "format": 1,
        "study": study,
        "participant": participant,
        "levels": LEVELS,
        "samples": samples,
    }
    page = render_page("evaluation/study", f"Rating pictures: {participant}", data)
    (folder / f"{participant}.html").write_text(page, encoding="utf-8")


def _hide_times(folder: epath.Path) -> None:
    """Give all files one time: in the order of writing methods come one after another."""
    for parent, _, names in os.walk(folder):
        for name in names:
            os.utime(os.path.join(parent, name), (FILE_TIME, FILE_TIME))
