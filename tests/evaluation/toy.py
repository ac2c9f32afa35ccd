"""A small benchmark of the form of GEdit-Bench: two languages, eleven tasks, distinct pictures."""

import hashlib
import io
import json

import numpy as np
from PIL import Image, ImageDraw

from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.samples import Sample, SampleId

SIZE = (32, 24)  # of input_image; input_image_raw is twice as large
INSTRUCTIONS = {"en": "make it {}", "cn": "把它变成{}"}


def key_of(task, number):
    """32 hex characters, as the real ones."""
    return hashlib.md5(f"{task} {number}".encode()).hexdigest()


def picture(text, size=SIZE):
    """A picture that depends on a text: a gradient and a disc, in colours of its own."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
    first, second, disc = rng.integers(0, 256, (3, 3))
    across = np.linspace(0, 1, size[0])[None, :, None]
    pixels = np.broadcast_to(first * (1 - across) + second * across, (size[1], size[0], 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    x, y = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    place = (int(x), int(y), int(x) + size[0] // 3, int(y) + size[1] // 3)
    ImageDraw.Draw(image).ellipse(place, fill=tuple(map(int, disc)))
    return image


def png(image):
    """The bytes of a picture's file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def toy_rows(per_task=2, tasks=GEDIT.tasks, languages=GEDIT.languages):
    """Rows with the real column names, pictures as Hugging Face has them; all of a task together.

    Of each task the last sample is not in the intersection, in no language, if there are several.
    """
    rows = []
    for task in tasks:
        for number in range(per_task):
            for language in languages:
                key = key_of(task, number)
                source = picture(key)
                raw = source.resize((2 * SIZE[0], 2 * SIZE[1]))
                rows.append(
                    {
                        "task_type": task,
                        "key": key,
                        "instruction": INSTRUCTIONS[language].format(f"{task} {number}"),
                        "instruction_language": language,
                        "input_image": {"bytes": png(source), "path": f"{key}.png"},
                        "input_image_raw": {"bytes": png(raw), "path": None},
                        "Intersection_exist": per_task == 1 or number < per_task - 1,
                    }
                )
    return rows


def toy_samples(per_task=2, tasks=GEDIT.tasks, languages=GEDIT.languages):
    """The same as samples, without a file."""
    return [
        Sample(
            id=SampleId(row["task_type"], row["instruction_language"], row["key"]),
            instruction=row["instruction"],
            pictures={
                name: lambda data=row[name]["bytes"]: data
                for name in ("input_image", "input_image_raw")
            },
            intersection=row["Intersection_exist"],
        )
        for row in toy_rows(per_task, tasks, languages)
    ]


def write_saved(folder, rows, shards=2, split="train"):
    """A folder as datasets' save_to_disk writes a data set with one split; needs pyarrow."""
    import pyarrow

    place = folder / split
    place.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    size = -(-len(rows) // shards)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        table = pyarrow.Table.from_pylist(rows[i * size : (i + 1) * size])
        with (
            pyarrow.OSFile(str(place / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=5)
    files = [{"filename": name} for name in names]
    (place / "state.json").write_text(json.dumps({"_data_files": files, "_split": split}))
    (place / "dataset_info.json").write_text("{}")
    return folder


def write_parquet(path, rows):
    """One parquet file, of several row groups; needs pyarrow."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    return path


def write_listed(folder, rows):
    """A folder with metadata.jsonl and the pictures as files; needs nothing."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for number, row in enumerate(rows):
            values = dict(row)
            for name, value in row.items():
                if isinstance(value, dict):
                    values[name] = f"{name}/{number}.png"
                    (folder / name).mkdir(exist_ok=True)
                    (folder / values[name]).write_bytes(value["bytes"])
            file.write(json.dumps(values) + "\n")
    return folder


def write_results(folder, samples, salt="", size=SIZE):
    """A method's pictures in the published layout, METHOD/fullset/TASK/LANG/KEY.png."""
    for sample in samples:
        task, language, key = sample.id
        place = folder / "fullset" / task / language
        place.mkdir(parents=True, exist_ok=True)
        picture(f"{salt} {' '.join(sample.id)}", size).save(place / f"{key}.png")
    return folder
