"""Recomputes golden vectors made with the published code.

    python -m tests.golden PATH [PATH ...]

PATH is a folder with a config.json (its `kind` says what it holds) or a table, a JSON file whose
rows have the names of one of TABLES, whatever the file is called. Everything runs in float32 with
the highest matmul precision. One row per quantity is printed: name, largest absolute error,
tolerance, ok or FAIL. The exit code is 1 if a quantity fails, 2 if a path is of no known kind.

Tolerances (float32 rounding): 2e-5 of the largest golden value or of 1 for
outputs, 1e-4 of the largest for each gradient and for the language model, 1e-5 relative for loss
and global norm. Statistics of judgements are float64: 1e-12.
"""

import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL
from etils import epath
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.images import image_size
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.judgements import Judgement
from step1x_jax.evaluation.judging.parsing import find_scores
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.statistics import score_samples, summarize
from step1x_jax.json_files import read_json
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import LoraConfig
from step1x_jax.models.connector import Connector
from step1x_jax.models.mllm.language import LanguageModel
from step1x_jax.models.mllm.model import MLLM
from step1x_jax.models.mllm.positions import (
    pad_pictures,
    pad_prompts,
    picture_layout,
    prompt_positions,
)
from step1x_jax.models.mllm.vision import VisionTower
from step1x_jax.models.step1x_edit import Step1XEdit, token_positions
from step1x_jax.overrides import override
from step1x_jax.sampling.config import sampling_from_json
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.sampler import sample, sample_with_progress
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.language_model import load_mllm
from step1x_jax.weights.layouts.official import flatten_params, model_table
from step1x_jax.weights.load import load_autoencoder, load_model
from step1x_jax.weights.lora.adapters import add_adapters, load_adapters
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.open import open_weights
from tests.golden_pairs import compare_pairwise, compare_replies

Case = dict[str, np.ndarray]

VECTORS = pathlib.Path(__file__).parent / "vectors"


class Row(NamedTuple):
    """One compared quantity."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # NaN is not


def outputs(name: str, ours, golden, relative: float = 2e-5) -> Row:
    """An array against its golden one; the tolerance is relative to max(1, max |golden|)."""
    return _row(name, ours, golden, relative * max(1.0, float(np.abs(golden).max())))


def of_largest(name: str, ours, golden) -> Row:
    """A gradient, or what the language model gives: 1e-4 of the largest golden entry."""
    return _row(name, ours, golden, 1e-4 * float(np.abs(golden).max()))


def scalar(name: str, ours, golden) -> Row:
    """Loss or norm: 1e-5 relative."""
    return _row(name, ours, golden, 1e-5 * abs(float(golden)))


def _row(name: str, ours, golden, tolerance: float) -> Row:
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if ours.shape != golden.shape:
        return Row(f"{name} (shape {ours.shape}, golden {golden.shape})", np.inf, tolerance)
    return Row(name, float(np.abs(ours - golden).max()), tolerance)


def nhwc(x: np.ndarray) -> jax.Array:
    """(..., C, h, w) -> (..., h, w, C)."""
    return jnp.asarray(np.moveaxis(x, -3, -1))


def nchw(x) -> np.ndarray:
    """(..., h, w, C) -> (..., C, h, w)."""
    return np.moveaxis(np.asarray(x), -1, -3)


def read_case(folder: pathlib.Path) -> Case:
    with np.load(folder / "case.npz") as case:
        return dict(case)


def lengths_of(mask: np.ndarray) -> jax.Array:
    """(B, T) of ones and zeros behind them -> (B,)."""
    lengths = mask.sum(-1)
    if not np.array_equal(mask != 0, np.arange(mask.shape[-1]) < lengths[:, None]):
        raise UserError("text_mask is not a prefix mask; this harness knows no other kind.")
    return jnp.asarray(lengths, jnp.int32)


def load_for_case(weights, case: Case, dtype: str = "float32") -> Step1XEdit:
    """The model with the case's number of text tokens, which the published code sees all."""
    model = load_model(weights, dtype=dtype)
    model.config = override(model.config, {"text_length": case["text_embeddings"].shape[1]})
    return model


def forward_rows(model: Step1XEdit, inputs: Case, golden: Case) -> Iterator[Row]:
    """Those of output_tokens and velocity that `golden` has."""
    latents, reference = nhwc(inputs["latents"]), nhwc(inputs["ref_latents"])
    text, lengths = jnp.asarray(inputs["text_embeddings"]), lengths_of(inputs["text_mask"])
    arguments = latents, reference, text, lengths, jnp.asarray(inputs["timesteps"])
    tokens = nnx.jit(Step1XEdit.image_velocity)(model, *arguments)
    yield outputs("output_tokens", tokens, golden["output_tokens"])
    velocity = nnx.jit(Step1XEdit.__call__)(model, *arguments)
    yield outputs("velocity", nchw(velocity), golden["velocity"])


def training_rows(model: Step1XEdit, case: Case) -> Iterator[Row]:
    """Loss, norm of all gradients, and the listed gradients, by official name."""
    graph, params = nnx.split(model)
    clean, noise = nhwc(case["train_x0"]), nhwc(case["train_noise"])
    reference, t = nhwc(case["ref_latents"]), jnp.asarray(case["timesteps"])
    text, lengths = jnp.asarray(case["text_embeddings"]), lengths_of(case["text_mask"])

    @jax.jit
    def loss_and_gradients(params):
        def loss(params):
            noisy = interpolate(clean, noise, t)
            velocity = nnx.merge(graph, params)(noisy, reference, text, lengths, t)
            return rectified_flow_loss(velocity, clean, noise)

        return jax.value_and_grad(loss)(params)

    loss, gradients = loss_and_gradients(params)
    yield scalar("train_loss", loss, case["train_loss"])
    yield scalar("grad_global_norm", optax.tree.norm(gradients), case["grad_global_norm"])
    read = OfficialTensors(model_table(model.config), flatten_params(gradients)).read
    for name in sorted(case):
        if name.startswith("grad/"):
            yield of_largest(name, read(name.removeprefix("grad/")), case[name])


def sampling_rows(model: Step1XEdit, case: Case, values: dict) -> Iterator[Row]:
    """The schedule, every latent of the host loop, and the last one of the scan."""
    defaults = sampling_from_json(values)
    noise, reference = nhwc(case["sample_noise"]), nhwc(case["sample_ref"])
    h, w = noise.shape[1:3]
    times = timesteps(defaults.num_steps, h * w // 4, defaults.shift)
    yield outputs("sample_schedule", times, case["sample_schedule"])

    text, lengths = jnp.asarray(case["sample_embeddings"]), lengths_of(case["sample_mask"])
    conditions = Conditions(reference, text[:1], lengths[:1], text[1:], lengths[1:])
    guidance = Guidance(defaults.guidance, defaults.truncate_for(model.config.version))
    trajectory: list[np.ndarray] = []
    sample_with_progress(
        model, conditions, noise, times, guidance, lambda _, x: trajectory.append(nchw(x[0]))
    )
    yield outputs("sample_trajectory", np.stack(trajectory), case["sample_trajectory"])
    last = sample(model, conditions, noise, times, guidance)
    yield outputs("sample_trajectory (scan, last)", nchw(last[0]), case["sample_trajectory"][-1])


def check_dit(folder: pathlib.Path, values: dict) -> Iterator[Row]:
    """Connector, DiT, training and sampling."""
    case = read_case(folder)
    model = load_for_case(folder, case)
    text, lengths = jnp.asarray(case["text_embeddings"]), lengths_of(case["text_mask"])
    t = jnp.asarray(case["timesteps"])
    h, w = case["latents"].shape[2:]

    ids = token_positions(model.config.version, [(h, w), case["ref_latents"].shape[2:]], 0)
    ids = np.broadcast_to(ids, (len(text), *ids.shape))
    yield outputs("img_ids", ids, case["img_ids"], relative=0)
    tokens, vector = nnx.jit(Connector.__call__)(model.connector, text, lengths, t)
    yield outputs("connector_tokens", tokens, case["connector_tokens"])
    yield outputs("connector_vec", vector, case["connector_vec"])
    yield from forward_rows(model, case, case)
    yield from training_rows(model, case)
    yield from sampling_rows(model, case, values)
    if "t2i_velocity" in case:
        arguments = nhwc(case["latents"]), None, text, lengths, t
        velocity = nnx.jit(Step1XEdit.__call__)(model, *arguments)
        yield outputs("t2i_velocity", nchw(velocity), case["t2i_velocity"])


def check_lora(folder: pathlib.Path, values: dict) -> Iterator[Row]:
    """A kohya file merged into the weights of its base, and as adapters beside them."""
    base = folder / values["base"]
    (file,) = folder.glob("*.safetensors")
    case, inputs = read_case(folder), read_case(base)
    model = load_for_case(open_weights(base, loras=[(file, 1.0)]), inputs)
    yield from forward_rows(model, inputs, case)

    model = load_for_case(base, inputs)
    stored = SafetensorsFile(file)
    module = "lora_unet_single_blocks_0_linear1"
    rank = stored.shapes[f"{module}.lora_down.weight"][0]
    lora = LoraConfig(rank=rank, alpha=float(stored.read(f"{module}.alpha")))
    add_adapters(model, model.config, lora)
    graph, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)
    adapters = load_adapters(file, adapters, model.config, lora)
    for row in forward_rows(nnx.merge(graph, adapters, frozen), inputs, case):
        yield row._replace(name=f"{row.name} (adapters apart)")


def check_vae(folder: pathlib.Path, values: dict) -> Iterator[Row]:
    """Encoder, scaled latents, decoder."""
    case = read_case(folder)
    model = load_autoencoder(folder)
    image = nhwc(case["image"])
    mean, logvar = nnx.jit(Autoencoder.moments)(model, image)
    yield outputs("mean", nchw(mean), case["mean"])
    yield outputs("logvar", nchw(logvar), case["logvar"])
    latents = nnx.jit(Autoencoder.encode)(model, image)
    yield outputs("latents", nchw(latents), case["latents"])
    decoded = nnx.jit(Autoencoder.decode)(model, nhwc(case["latents"]))
    yield outputs("decoded", nchw(decoded), case["decoded"])


def check_mllm(folder: pathlib.Path, values: dict) -> Iterator[Row]:
    """Qwen2.5-VL, all pictures in one padded batch; each stage starts from golden values."""
    case = read_case(folder)
    cases: list[Case] = [{} for _ in range(values["cases"])]
    for name, array in case.items():
        i, _, quantity = name.partition("/")
        cases[int(i)][quantity] = array
    model = load_mllm(folder / "model", dtype="float32")
    config = model.config

    # Pillow 12, which gradio wants, resizes some sizes otherwise than 13, by up to 3 levels.
    exact = int(PIL.__version__.split(".")[0]) >= 13
    tolerance = (
        1e-6 if exact else 3 / 255 / 0.2613
    )  # the smallest deviation that pixels are divided by
    for i, (pixel_values, grid) in enumerate(processed(cases, values)):
        yield _row(f"{i}/pixel_values", pixel_values, cases[i]["pixel_values"], tolerance)
        yield outputs(f"{i}/grid_thw", grid, cases[i]["grid_thw"], relative=0)
    for i, one in enumerate(cases):
        positions = prompt_positions(one["input_ids"], one["grid_thw"], config)
        yield outputs(f"{i}/position_ids", positions, one["position_ids"], relative=0)

    grids = [one["grid_thw"] for one in cases]
    patches = [one["pixel_values"] for one in cases]
    ids = [one["input_ids"].tolist() for one in cases]
    pictures = pad_pictures(patches, grids, config.vision, 4 + max(map(len, patches)))
    prompts = pad_prompts(ids, grids, config, 3 + max(map(len, ids)))
    tokens = np.asarray(nnx.jit(VisionTower.__call__)(model.visual, pictures))
    embedded = nnx.jit(MLLM.embed)(model, pictures, prompts)
    layers = nnx.jit(LanguageModel.layer_outputs)(model.language_model, embedded, prompts.positions)
    hidden = np.concatenate([np.asarray(embedded)[None], np.asarray(layers)])
    last = np.asarray(nnx.jit(MLLM.__call__)(model, pictures, prompts))
    for i, one in enumerate(cases):
        length = len(ids[i])
        places = picture_layout(grids[i], config.vision).window_index
        yield of_largest(f"{i}/vision", tokens[i, places], one["vision"])
        yield of_largest(f"{i}/last_hidden_state", last[i, :length], one["last_hidden_state"])
        for j, states in enumerate(hidden):
            if f"hidden_{j}" in one:
                yield of_largest(f"{i}/hidden_{j}", states[i, :length], one[f"hidden_{j}"])


def processed(cases: list[Case], values: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Patches and grid of each picture, as the published processor makes them."""
    from transformers import Qwen2VLImageProcessorPil

    limits = {"shortest_edge": values["min_pixels"], "longest_edge": values["max_pixels"]}
    processor = Qwen2VLImageProcessorPil(size=limits)
    for one in cases:
        result = processor([Image.fromarray(one["image"])], return_tensors="np")
        yield result["pixel_values"], result["image_grid_thw"][0]


def check_schedule(rows: list) -> Iterator[Row]:
    """The table of sampling times."""
    for row in rows:
        steps, tokens = row["num_steps"], row["image_seq_len"]
        name = f"{steps} steps, {tokens} tokens"
        yield outputs(name, timesteps(steps, tokens), row["timesteps"])


def check_resize(rows: list) -> Iterator[Row]:
    """The table of picture sizes, exact."""
    for row in rows:
        width, height, level = row["width"], row["height"], row["size_level"]
        size = image_size(width, height, level)
        yield outputs(f"{width} x {height} at {level}", size, row["resized"], relative=0)


def check_statistics(values: dict) -> Iterator[Row]:
    """Means of judgements by language, subset and measure; a mean that there cannot be is null."""
    scored = score_samples(map(judgement, values["judgements"]), GEDIT)
    for language, subsets in values["expected"].items():
        ours = [one for one in scored if one.id.language == language]
        for subset, measures in subsets.items():
            chosen = [one for one in ours if subset == "full" or one.intersection]
            summary = summarize(chosen, GEDIT)
            for measure, golden in measures.items():
                for name, number in golden.items():
                    cell = summary.average if name.startswith("avg_") else summary.tasks[name]
                    absent = number is None or math.isnan(number)
                    found = cell.means.get(measure)
                    error = float(absent != (found is None))
                    if found is not None and not absent:
                        error = abs(found - number)
                    yield Row(f"{language} {subset} {measure} {name}", error, 1e-12)


def judgement(row: dict) -> Judgement:
    """One of the rows of a table of judgements."""
    numbers = {name: tuple(row[name]) for name in ("semantics", "quality")}
    sample = SampleId(row["task_type"], row["instruction_language"], row["key"])
    return Judgement(sample, "ok", numbers, row["intersection"])


def check_pairwise(values: dict) -> Iterator[Row]:
    """Elo scores of pairwise verdicts, their intervals, and what the verdicts are like."""
    for name, ours, golden, tolerance in compare_pairwise(values):
        yield _row(name, ours, golden, tolerance)


def check_pair_replies(rows: list) -> Iterator[Row]:
    """The winners that replies about pairs name, exact."""
    for name, ours, golden, tolerance in compare_replies(rows):
        yield _row(name, ours, golden, tolerance)


def check_replies(rows: list) -> Iterator[Row]:
    """The scores that the published parser finds in replies; what else it gives is no score."""
    for number, row in enumerate(rows):
        published = row["published"]
        golden = published.get("score") if isinstance(published, dict) else None
        same = repr(find_scores(row["reply"])) == repr(golden)  # NaN is NaN, 7 is not 7.0
        yield Row(f"reply {number} {row['reply'][:20]!r}", float(not same), 0.0)


FOLDERS: dict[str, Callable[[pathlib.Path, dict], Iterator[Row]]] = {
    "dit": check_dit,
    "vae": check_vae,
    "lora": check_lora,
    "mllm": check_mllm,
}
# By names that the first row has; the first that fits counts. Rows are the file's list, or one of
# the lists ROWS in its object.
TABLES: dict[tuple[str, ...], Callable[..., Iterator[Row]]] = {
    ("num_steps", "image_seq_len", "timesteps"): check_schedule,
    ("width", "height", "size_level"): check_resize,
    ("semantics", "quality"): check_statistics,
    ("dimension", "first", "second", "winner"): check_pairwise,
    ("reply", "recommended"): check_pair_replies,
    ("reply", "published"): check_replies,  # which replies about pairs have, too
}
ROWS = ("judgements", "rows")


def check_table(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a JSON file, which are of a kind that its names tell.

    Raises:
      UserError: they are of none of TABLES.
    """
    values = json.loads(path.read_text())
    rows = values
    if isinstance(values, dict):
        rows = next((values[name] for name in ROWS if name in values), [])
    names = set(rows[0]) if rows and isinstance(rows[0], dict) else set()
    for known, check_rows in TABLES.items():
        if names.issuperset(known):
            return check_rows(values)
    kinds = "; ".join(", ".join(known) for known in TABLES)
    raise UserError(f"{path}: unknown kind; the rows of known ones have {kinds}.")


def check(path: pathlib.Path) -> Iterator[Row]:
    """The rows of one path.

    Raises:
      UserError: it is of no known kind.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if path.is_file():
        return check_table(path)
    config = path / "config.json"
    values = read_json(epath.Path(config)) if config.is_file() else {}
    if values.get("kind") not in FOLDERS:
        raise UserError(
            f"{path}: unknown kind {values.get('kind')!r} in config.json;"
            f" known: {', '.join(FOLDERS)}."
        )
    return FOLDERS[values["kind"]](path, values)


def main(arguments: list[str]) -> int:
    """Prints all rows and a closing line."""
    if not arguments:
        print("usage: python -m tests.golden PATH [PATH ...]", file=sys.stderr)
        return 2
    failed = total = unknown = 0
    with jax.default_matmul_precision("highest"):
        for argument in arguments:
            try:
                for row in check(pathlib.Path(argument)):
                    total, failed = total + 1, failed + (not row.ok)
                    verdict = "ok" if row.ok else "FAIL"
                    name = f"{argument}: {row.name}"
                    print(f"{name:<72} {row.error:10.3e} {row.tolerance:10.3e} {verdict}")
            except UserError as e:
                unknown += 1
                print(f"error: {e}", file=sys.stderr)
    bad = bool(failed or unknown)
    print(
        f"{total} quantities, {failed} failed, {unknown} paths not checked:"
        f" {'FAIL' if bad else 'ok'}"
    )
    return 1 if failed else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
