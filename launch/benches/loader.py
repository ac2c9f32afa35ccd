"""Edits a second that the loader of one host delivers, beside what its chips could train on.

Synthetic records of full size (bfloat16, a text of 640 tokens and one for the empty instruction)
are written to --folder first. What is timed is what training waits for: global shuffle, reading,
checking, padding into batches. The file system's cache holds what was just written; --records
beyond the machine's memory show the disk instead.

"could take" is for a host whose chips do nothing but matmuls at their published peak, forward and
backward: no step is faster.
"""

import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from launch.shared.number_list import define_number_list
from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.data.manifest import write_dataset
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.data.records import BF16, LATENT_CHANNELS, EditRecord
from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.parallel.devices import PEAK_FLOPS
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.monitoring.flops import step_flops

_LOADER_PIXELS = define_number_list(
    "loader_pixels", [512, 1024], "Sides of the pictures.", lower=16, upper=8192
)
_RECORDS = flags.DEFINE_integer(
    "records", 256, "How many records are written and read.", lower_bound=8
)
_THREADS = define_number_list("threads", [0, 2, 4], "Of the loader.", lower=0, upper=1024)
_FOLDER = flags.DEFINE_string(
    "folder", None, "Where they are written (default: a temporary folder)."
)

BATCH = 8
HOSTS = {"TPU v5": 4, "TPU v6 lite": 4, "H200": 8}  # chips
SECONDS = 5.0  # that each row is measured


def rows() -> Iterator[dict[str, Any]]:
    """One row for each size and number of threads."""
    for pixels in _LOADER_PIXELS.value:
        with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
            manifest = write_dataset(folder, records(pixels, _RECORDS.value))
            size = sum(shard.bytes for shard in manifest.shards) / _RECORDS.value
            for threads in _THREADS.value:
                speed = edits_per_second(folder, threads)
                row = {"px": pixels, "MB an edit": size / 1e6, "threads": threads}
                row |= {"edits/s": speed, "MB/s": speed * size / 1e6}
                for chip in HOSTS:
                    most = chips_could_take(pixels, chip)
                    row |= {f"{chip} host could take": most, f"{chip}: times that": speed / most}
                yield row


def records(pixels: int, count: int) -> Iterator[EditRecord]:
    """Random ones."""
    config = step1x_edit_v1_1()
    side = pixels // PIXELS_PER_LATENT
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        # any bits but those of infinities and NaNs
        return (rng.integers(0, 1 << 15, shape, np.uint16) & 0xBFFF).view(BF16)

    for i in range(count):
        text, negative = (draw(config.text_length, config.connector_in_channels) for _ in range(2))
        source, target = (draw(side, side, LATENT_CHANNELS) for _ in range(2))
        sizes = (pixels, pixels)
        yield EditRecord(str(i), "edit", "en", "", sizes, sizes, "", text, negative, source, target)


def edits_per_second(folder: epath.PathLike, threads: int) -> float:
    """Measure one process that takes whole batches."""
    config = DataConfig(path=str(folder), batch_size=BATCH, threads=threads)
    batches = make_batches(config, text_length=640, seed=0, start_step=0)
    for _ in range(2):
        next(batches)
    count, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS:
        next(batches)
        count += BATCH
    return count / seconds


def chips_could_take(pixels: int, chip: str) -> float:
    """Edits a second of a host's chips at their peak."""
    config = TrainConfig(model=step1x_edit_v1_1())
    side = pixels // PIXELS_PER_LATENT
    an_edit = step_flops(config, (side, side)) / config.data.batch_size
    return HOSTS[chip] * PEAK_FLOPS[chip] / an_edit
