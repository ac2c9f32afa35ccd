"""Measure edited pictures against true edits and against sources: launch/guides/evaluate.md.

python -m launch.evaluate reference --dataset=data/edits --benchmark=geditv2 --target=target_image \
    --results=results --methods=mine,others --output=reference.json
python -m launch.evaluate reference --dataset=data/edits --benchmark=geditv2 --target=target_image \
    --methods=mine --clip=clip-vit-base-patch32 --dino=dino-vits16 --caption=target_caption \
    --lpips=alexnet.safetensors

L1, L2, PSNR and SSIM always; CLIP-I and CLIP-T, DINO and LPIPS from weights that you name. An
editor that does nothing is nearest to the source: read both columns, and a judge.
"""

import dataclasses

from absl import flags
from tqdm import tqdm

from launch.evaluations import benchmark_flags
from step1x_jax.errors import UserError
from step1x_jax.evaluation.datasets import find_source, read_samples
from step1x_jax.evaluation.method_pictures import find_pictures, method_folder
from step1x_jax.evaluation.reference import (
    PIXEL_MEASURES,
    Measure,
    TextMeasure,
    average_measures,
    measure_samples,
)
from step1x_jax.evaluation.reference_tables import reference_to_markdown
from step1x_jax.files import check_writable, user_path
from step1x_jax.json_files import write_json

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHODS = flags.DEFINE_list("methods", None, "Whose pictures are measured.", required=True)
_TARGET = flags.DEFINE_string("target", None, "Column of the true edits.", required=True)
_CLIP = flags.DEFINE_string("clip", None, "Folder of a CLIP model, for CLIP-I.")
_CAPTION = flags.DEFINE_string(
    "caption", None, "Column with a description of the true edit, for CLIP-T (needs --clip)."
)
_DINO = flags.DEFINE_string("dino", None, "Folder of a DINO model.")
_LPIPS = flags.DEFINE_string(
    "lpips", None, "A .safetensors file of torchvision's AlexNet or VGG-16."
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for all numbers.")
flags.adopt_module_key_flags(benchmark_flags)


def main() -> None:
    """Measure each method, and print tables."""
    benchmark = benchmark_flags.benchmark()
    source = find_source(benchmark, benchmark_flags.SOURCE.value)
    if _CAPTION.value and not _CLIP.value:
        raise UserError("--caption is for CLIP-T, which needs --clip; give both, or neither.")
    if _OUTPUT.value:
        check_writable(user_path(_OUTPUT.value))
    pictures = {source: benchmark.pictures[source], _TARGET.value: (_TARGET.value,)}
    samples = read_samples(
        benchmark_flags.DATASET.value,
        dataclasses.replace(benchmark, pictures=pictures),
        None,
        benchmark_flags.TASKS.value,
        benchmark_flags.LANGUAGES.value,
        benchmark_flags.LIMIT.value,
    )
    measures, text_measures = measures_wanted()
    rows, counts = [], {}
    for method in dict.fromkeys(_METHODS.value):
        folder = method_folder(_RESULTS.value, method)
        found = find_pictures(folder, [sample.id for sample in samples], benchmark.layout)
        with tqdm(total=len(samples), desc=method, unit="picture") as bar:
            measured = measure_samples(
                samples,
                found.get,
                {"target": _TARGET.value, "source": source},
                measures,
                text_measures,
                _CAPTION.value,
                bar.update,
            )
        rows += average_measures(method, measured, benchmark.mean_of)
        counts[method] = {
            status: sum(one.status == status for one in measured)
            for status in ("measured", "missing", "unreadable")
        }
    print(reference_to_markdown(rows, counts), end="")
    if _OUTPUT.value:
        values = {"counts": counts, "rows": [dataclasses.asdict(row) for row in rows]}
        write_json(user_path(_OUTPUT.value), values)


def measures_wanted() -> tuple[list[Measure], list[TextMeasure]]:
    """Return the measures of pixels, and those for which there are weights."""
    measures: list[Measure] = [*PIXEL_MEASURES]
    text_measures: list[TextMeasure] = []
    if _CLIP.value or _DINO.value or _LPIPS.value:  # torch, where it is needed alone
        from step1x_jax.evaluation import reference_models as models

        if _CLIP.value:
            clip = models.ClipMeasure(user_path(_CLIP.value))
            measures.append(clip)
            if _CAPTION.value:
                text_measures.append(models.ClipTextMeasure(clip))
        if _DINO.value:
            measures.append(models.DinoMeasure(user_path(_DINO.value)))
        if _LPIPS.value:
            measures.append(models.LpipsMeasure(user_path(_LPIPS.value)))
    return measures, text_measures
