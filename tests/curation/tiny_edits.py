"""A whole small pipeline: noise as photographs, three kinds of edits, words for them."""

import dataclasses
import io
from typing import ClassVar

import numpy as np
from PIL import Image

from step1x_jax.curation.config import CurateConfig, ExportConfig
from step1x_jax.curation.engine.rows import Rejected
from step1x_jax.curation.engine.source import Source, Unit, id_of
from step1x_jax.curation.engine.stage import Stage, each
from step1x_jax.curation.review import Review
from step1x_jax.curation.sources.photograph_rows import COLUMNS, photograph_row

SIZE = (48, 32)  # (width, height)


def as_png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def as_pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@dataclasses.dataclass
class Noise(Source):
    """Photographs of blocks of colour, two from each place; the last file is torn."""

    count: int = 8

    writes: ClassVar = COLUMNS

    def units(self):
        return [Unit(i, str(i)) for i in range(self.count + 1)]

    def read(self, payload, context):
        name = f"place{payload // 2}/photo{payload}.png"
        rng = np.random.default_rng(payload)
        blocks = rng.integers(40, 216, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
        data = as_png(blocks.repeat(8, 0).repeat(8, 1))
        data = data if payload < self.count else data[:90]
        group = f"place{payload // 2}"
        yield (
            id_of(name),
            photograph_row(data, name, group=group, licence="CC0", url=f"https://x/{payload}"),
        )


@dataclasses.dataclass
class Edits(Stage):
    """Three edits of each: brighter, a colour turned, and one that is always left out."""

    brighter: int = 40

    reads: ClassVar = {"picture": bytes, "group": str}
    writes: ClassVar = {
        "category": str,
        "source": bytes,
        "target": bytes,
        "mask": bytes,
        "groups": list[str],
        "references": list[bytes],
        "method": str,
    }
    many: ClassVar = True

    def open(self):
        return each(self._edit)

    def _edit(self, row):
        pixels = as_pixels(row["picture"])
        mask = as_png(np.full(pixels.shape[:2], 255, np.uint8))
        common = {"source": as_png(pixels), "mask": mask, "groups": [row["group"]]}
        yield {
            **common,
            "category": "tone_transfer",
            "target": as_png(np.clip(pixels.astype(int) + self.brighter, 0, 255).astype(np.uint8)),
            "method": "brighter",
        }
        yield {
            **common,
            "category": "color_alter",
            "target": as_png(pixels[..., ::-1]),
            "references": [as_png(pixels[..., [1, 1, 1]])],
            "method": "turned",
        }
        yield Rejected("no_face", columns={"category": "ps_human"})


@dataclasses.dataclass
class Words(Stage):
    """Instructions of each category."""

    reads: ClassVar = {"category": str}
    writes: ClassVar = {"instruction_en": str, "instruction_cn": str, "instruction_by": str}

    def open(self):
        words = {
            "tone_transfer": ("make it <b>brighter</b>", "让画面更亮"),
            "color_alter": ("swap red & blue", "交换红色和蓝色"),
        }

        def write(row):
            english, chinese = words[row["category"]]
            return {
                "instruction_en": english,
                "instruction_cn": chinese,
                "instruction_by": "template",
            }

        return each(write)


def tiny_config(**settings):
    """The config; `settings` of CurateConfig."""
    stages = {"edit": Edits(), "words": Words(), "review": Review()}
    return CurateConfig(
        source=Noise(), stages=stages, export=ExportConfig(held_out=0.25), **settings
    )


def get_config():
    """For --config."""
    return tiny_config()
