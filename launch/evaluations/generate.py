"""Edit a benchmark's pictures: launch/guides/evaluate.md.

python -m launch.evaluate generate --dataset=data/gedit --results=results --method=mine \
    --model=runs/mine --ema
python -m launch.evaluate generate --dataset=data/gedit --results=results --method=mine \
    --model=weights --shard=0/4

Writes RESULTS/METHOD/fullset/TASK/LANG/KEY.png, and run.json beside fullset/. Run it again and it
goes on: pictures that are there stay. It refuses if they were made otherwise.

--shard=0/4 makes the first of four shares, for four machines that write to one folder.

Ends with exit code 3 if samples failed; they are listed in failures.jsonl.
"""

import dataclasses
import re
import sys
from typing import Any

import jax
from absl import flags
from PIL import Image
from tqdm import tqdm

from launch.evaluations import benchmark_flags
from launch.shared import editor_flags, sampling_flags
from launch.shared.exit_codes import SOME_FAILED
from step1x_jax import __version__
from step1x_jax.data.paths import make_printable
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.fingerprints import noted_models
from step1x_jax.editing.loading import FoundModels, default_dtype, find_weights
from step1x_jax.editing.settings import sampling_of
from step1x_jax.errors import UserError
from step1x_jax.evaluation.datasets import find_source
from step1x_jax.evaluation.generate import generate, note_run, take_share
from step1x_jax.evaluation.method_pictures import method_folder
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.json_files import as_json
from step1x_jax.sampling.noise import SEED_BITS
from step1x_jax.sampling.plan import EXACT

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHOD = flags.DEFINE_string("method", None, "Name of the method, a folder of it.", required=True)
_MODEL = flags.DEFINE_string(
    "model", None, "quickstart, a run's folder, or a file or folder of weights.", required=True
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of all noise.", lower_bound=0, upper_bound=(1 << SEED_BITS) - 1
)
_SHARD = flags.DEFINE_string("shard", "0/1", "Which share of the work, and of how many.")
flags.adopt_module_key_flags(benchmark_flags)
flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(editor_flags)


def main() -> int:
    """Check all that can be wrong, then load, edit and save."""
    benchmark = benchmark_flags.benchmark()
    source = find_source(benchmark, benchmark_flags.SOURCE.value)
    folder = method_folder(_RESULTS.value, _METHOD.value)
    host, hosts = shard(_SHARD.value)
    samples = take_share(benchmark_flags.samples(), host, hosts)
    found = find_weights(_MODEL.value, **editor_flags.opening())
    sampling = sampling_flags.resolved(found.weights)
    facts, notes = run_facts(found, sampling)
    facts |= {"benchmark": benchmark.name, "source": source, "seed": _SEED.value}
    note_run(folder, facts, notes)
    editor = Editor.load(
        _MODEL.value,
        **editor_flags.loading(),
        say=lambda line: print(line, file=sys.stderr),
    )

    def edit(picture: Image.Image, instruction: str, seed: int) -> Image.Image:
        (edited,) = editor.edit(
            picture,
            instruction,
            seed=seed,
            steps=sampling["steps"],
            guidance_scale=sampling["guidance"],
            truncate=sampling["truncate"],
            size=sampling["size"],
            speed=sampling.get("speed", EXACT),
        )
        return edited

    with tqdm(total=len(samples), desc="generating", unit="picture") as bar:

        def tell(sample: SampleId, error: str) -> None:
            bar.update()
            if error:
                bar.write(
                    make_printable(f"{'/'.join(sample)} was not made: {error}"), file=sys.stderr
                )

        counts = generate(
            edit,
            samples,
            folder,
            layout=benchmark.layout,
            source=source,
            seed=_SEED.value,
            host=host,
            hosts=hosts,
            tell=tell,
        )
    print(f"{folder}: {counts.made} made, {counts.there} there before, {counts.failed} failed")
    return SOME_FAILED if counts.failed else 0


def shard(text: str) -> tuple[int, int]:
    """The number of a share, from 0 on, and how many there are.

    Raises:
      UserError: the text is not of this form.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([1-9][0-9]{0,5})", text)
    if match is None:
        raise UserError(f"--shard={text}: give a share and how many there are, as 0/4.")
    return int(match[1]), int(match[2])


def run_facts(
    found: FoundModels, sampling: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a picture depends on besides its sample, and what else is noted.

    Args:
      found: what is loaded.
      sampling: as of `sampling_flags.resolved`.

    Returns:
      Both as values of JSON. Paths of files are only noted, their contents count.
    """
    models = noted_models(
        found,
        _MODEL.value,
        editor_flags.VAE.value,
        editor_flags.TEXT_ENCODER.value,
        editor_flags.opening()["loras"],
    )
    loras = models.pop("loras")
    encoder = dataclasses.asdict(found.encoder)
    if "plan" in sampling:
        sampling = sampling | {"plan": as_json(sampling["plan"])}
    facts = {
        "weights": {name: file.digest for name, file in models.items()}
        | {"loras": [[lora.digest, lora.strength] for lora in loras]},
        "ema": editor_flags.opening()["ema"],
        "dtype": editor_flags.DTYPE.value or default_dtype(),
        "quantize": editor_flags.QUANTIZE.value,
        "sampling": {**sampling, "shift": sampling_of(found.weights).shift},
        "encoder": {name: encoder[name] for name in encoder if name not in ("path", "dtype")},
        "output_size": "input",
    }
    device = jax.devices()[0].device_kind
    notes = {
        "paths": {name: file.path for name, file in models.items()}
        | {"loras": [lora.path for lora in loras]},
        "made_with": f"step1x_jax {__version__}, jax {jax.__version__}, {device}",
    }
    return facts, notes
