"""The golden weights in every format that occurs, and files that are only recognized.

Each file is made once, when it is first requested; test_matrix.py computes its contents by hand.
"""

import dataclasses
import functools
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.models.config import LoraConfig
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.layouts.diffusers import autoencoder_layout, transformer_layout
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import abstract_adapters, load_adapters
from step1x_jax.weights.lora.names import kohya_name
from step1x_jax.weights.readers import InMemory, Relayout
from step1x_jax.weights.run.fingerprints import describe_arrays, name_arrays
from step1x_jax.weights.run.writer import write_adapters_folder, write_weights_folder
from tests.golden import VECTORS
from tests.training.tiny import tiny_config
from tests.weights.models import parameters_as, published

GOLDEN, GOLDEN_0, VAE = VECTORS / "dit_v1_1", VECTORS / "dit_v1_0", VECTORS / "vae"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"  # fits both versions
ADAPTERS = LoraConfig(rank=4, alpha=2.0)  # LORA's settings
FILE, INDEX = "weights.safetensors", "weights.safetensors.index.json"
SHARD, STEM = "part-{}.safetensors", "diffusion_pytorch_model"
WIDTH = 64


# Contents of the formats.


@functools.cache
def model_config():
    """Sizes of the golden v1.1, float32."""
    return load_model(GOLDEN).config


def arrays_in(folder=GOLDEN):
    """Tensors of a golden folder."""
    return load_file(folder / FILE)


def layer_of_lora(tensors, key):
    """Returns the delta of a layer in a kohya file: alpha / rank * up @ down."""
    down, up = (tensors[f"{key}.lora_{half}.weight"] for half in ("down", "up"))
    return tensors[f"{key}.alpha"] / len(down) * (up @ down)


@functools.cache
def added():
    """Returns the golden LoRA's deltas by official weight."""
    tensors = load_file(LORA)
    names = {kohya_name(n.removesuffix(".weight")): n for n in arrays_in() if n.endswith(".weight")}
    keys = {key.partition(".")[0] for key in tensors}
    return {names[key]: layer_of_lora(tensors, key) for key in keys}


def with_lora(arrays, strength=1):
    """Returns tensors with the golden LoRA merged."""
    return {n: x + strength * added()[n] if n in added() else x for n, x in arrays.items()}


@functools.cache
def stored_in_eight_bits(scaled):
    """Returns the tensors of an 8-bit file: the blocks' matrices in float8, others bfloat16."""
    arrays: dict[str, np.ndarray] = {}
    for name, x in arrays_in().items():
        if "blocks" not in name or x.ndim != 2:
            arrays[name] = x.astype(jnp.bfloat16)
            continue
        scale = np.array(np.abs(x).max() / 448 if scaled else 1, np.float32)
        arrays[name] = (x / scale).astype(jnp.float8_e4m3fn)
        if scaled:
            arrays[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    return arrays


def from_eight_bits(scaled, dtype):
    """Returns them dequantized: times the scale in float32, rounded once."""
    stored = stored_in_eight_bits(scaled)
    result = {}
    for name in arrays_in():
        x = stored[name]
        scale = stored.get(f"{name.removesuffix('.weight')}.scale_weight", np.float32(1))
        eight = x.dtype == jnp.float8_e4m3fn
        result[name] = (x.astype(np.float32) * scale).astype(dtype) if eight else x
    return result


@functools.cache
def begun():
    """Returns the golden v1.1's DiT with the connector of a new model."""
    new = Step1XEdit(dataclasses.replace(model_config()), rngs=nnx.Rngs(0))
    drawn = published(new.config, nnx.state(new))
    return {n: drawn.read(n) if n.startswith("connector.") else x for n, x in arrays_in().items()}


def to_diffusers(arrays):
    """Official tensors of connector and DiT under diffusers' names."""
    held = InMemory(arrays)
    theirs = Relayout(held, transformer_layout(held.shapes, WIDTH))
    return {name: np.ascontiguousarray(theirs.read(name)) for name in theirs.shapes}


def folded(arrays):
    """Folds scale_factor of a v1.0, as diffusers' class requires."""
    arrays = dict(arrays)
    scale = arrays.pop("connector.scale_factor")
    arrays["connector.global_proj_out.weight"] *= 1 + scale
    return arrays


# Functions that write a format into an empty folder, and return the path to open.


def official(folder, arrays=None, name=FILE, sizes=GOLDEN):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays_in(sizes) if arrays is None else arrays, folder / name)
    shutil.copy(sizes / "config.json", folder)
    return folder / name


def official_v1_0(folder):
    return official(folder, sizes=GOLDEN_0)


def with_prefix(folder):
    return official(folder, {f"model.diffusion_model.{n}": x for n, x in arrays_in().items()})


def shards(folder, arrays, index):
    """Writes three files and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {name: SHARD.format(i % 3) for i, name in enumerate(arrays)}
    for file in set(where.values()):
        save_file({n: arrays[n] for n, there in where.items() if there == file}, folder / file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def official_shards(folder):
    shards(folder, arrays_in(), INDEX)
    shutil.copy(GOLDEN / "config.json", folder)
    return folder


def index_of_shards(folder):
    return official_shards(folder) / INDEX


def diffusers(folder, arrays=None, in_shards=False):
    """As diffusers' class writes it: its own names of sizes, without our entries."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = to_diffusers(arrays_in() if arrays is None else arrays)
    if in_shards:
        shards(folder, arrays, f"{STEM}.safetensors.index.json")
    else:
        save_file(arrays, folder / f"{STEM}.safetensors")
    values = {
        "_class_name": "Step1XEditTransformer2DModel",
        "in_channels": 64, "num_layers": 2, "num_single_layers": 3, "num_attention_heads": 4,
        "attention_head_dim": 16, "joint_attention_dim": 96, "axes_dims_rope": [4, 6, 6],
        "vector_in_dim": 32, "connector_in_channels": 48, "connector_hidden_size": 96,
        "connector_heads_num": 4, "connector_depth": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def file_of_diffusers(folder):
    return diffusers(folder) / f"{STEM}.safetensors"


def diffusers_shards(folder):
    return diffusers(folder, in_shards=True)


def vae_of_diffusers(folder):
    folder.mkdir(parents=True, exist_ok=True)
    held = InMemory(arrays_in(VAE))
    theirs = Relayout(held, autoencoder_layout(held.shapes, 4))
    arrays = {name: np.ascontiguousarray(theirs.read(name)) for name in theirs.shapes}
    save_file(arrays, folder / f"{STEM}.safetensors")
    values = {
        "_class_name": "AutoencoderKL", "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1, "latent_channels": 16, "norm_num_groups": 32,
        "scaling_factor": 0.3611, "shift_factor": 0.1159,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def pipeline(folder, name="Step1XEditPipeline"):
    diffusers(folder / "transformer")
    vae_of_diffusers(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder


def release(folder):
    """No file gives the autoencoder's sizes: test_matrix.py patches the release's."""
    official(folder, name="step1x-edit-v1p1-official.safetensors")
    shutil.copy(VAE / FILE, folder / "vae.safetensors")
    return folder


def parts(folder):
    official(folder / "transformer")
    shutil.copytree(VAE, folder / "autoencoder")
    (folder / "encoder").mkdir()
    return folder


def one_device():
    """Runs on several devices are in tests/weights/run/test_reader.py."""
    return make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])


def run(folder):
    """A run of all parameters as launch.train saves it; its average is half the parameters."""
    config = override(tiny_config(), {"model": model_config(), "mesh": MeshConfig(fsdp=1)})
    abstract = abstract_state(config, one_device())
    params = parameters_as(GOLDEN, config.model, abstract.params)
    state = init_state(config, abstract, params)
    state = dataclasses.replace(state, ema=jax.tree.map(lambda x: x / 2, state.params))
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state, config)
    checkpoints.close()
    return folder


def run_of_adapters(folder, base=GOLDEN / FILE, tensors=None):
    """The golden LoRA as a run; its average halves both factors, so it adds a quarter.

    Its description has the fingerprints of these tensors as the base's.
    """
    config = override(
        tiny_config(),
        {
            "model": model_config(),
            "lora": ADAPTERS,
            "mesh": MeshConfig(fsdp=1),
            "training.start_from": str(base),
        },
    )
    abstract = abstract_state(config, one_device())
    adapters = load_adapters(LORA, abstract.params, config.model, ADAPTERS)
    tensors = arrays_in() if tensors is None else tensors
    weights = parameters_of(tensors, folder.parent / "base" / FILE)
    state = init_state(config, abstract, adapters)
    state = dataclasses.replace(state, ema=jax.tree.map(lambda x: x / 2, state.params))
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state, config, describe_arrays(name_arrays(weights)))
    checkpoints.close()
    return folder


def parameters_of(arrays, path):
    """Returns our parameters from official tensors."""
    return nnx.state(load_model(official(path.parent, arrays, path.name)))


def adapters_alone(folder):
    abstract = abstract_adapters(model_config(), ADAPTERS)
    adapters = load_adapters(LORA, abstract, model_config(), ADAPTERS)
    write_adapters_folder(folder, adapters, model_config(), ADAPTERS)
    return folder


def weights_alone(folder):
    write_weights_folder(folder, InMemory(arrays_in()), model_config(), {})
    return folder


def eight_bits(folder):
    return official(folder, stored_in_eight_bits(scaled=False))


def eight_bits_of_diffusers(folder):
    return diffusers(folder, stored_in_eight_bits(scaled=False))


def scaled_eight_bits(folder):
    marker = {"scaled_fp8": np.zeros(2, jnp.float8_e4m3fn)}
    return official(folder, stored_in_eight_bits(scaled=True) | marker)


def flux(folder):
    return official(folder, {n: x for n, x in arrays_in().items() if "connector." not in n})


def flux_of_diffusers(folder):
    held = InMemory(load_file(flux(folder / "official")))
    theirs = Relayout(held, transformer_layout(held.shapes, WIDTH, flux=True))
    arrays = {name: np.ascontiguousarray(theirs.read(name)) for name in theirs.shapes}
    (folder / "flux").mkdir()
    save_file(arrays, folder / "flux" / f"{STEM}.safetensors")
    sizes = json.loads((GOLDEN / "config.json").read_text())
    values = {"_class_name": "FluxTransformer2DModel", "_step1x_jax": sizes}
    (folder / "flux" / "config.json").write_text(json.dumps(values))
    return folder / "flux"


def kohya(folder):
    """With a config.json of its model, whose sizes are not the release's."""
    return official(folder, load_file(LORA))


def halves_of_diffusers():
    """Yields name, down and up of diffusers' layers for each layer of the golden LoRA."""
    tensors = load_file(LORA)
    for layer in added_layers():
        key = kohya_name(layer.removesuffix(".weight"))
        down, up = (tensors[f"{key}.lora_{half}.weight"] for half in ("down", "up"))
        rows = Relayout(InMemory({layer: up}), transformer_layout({layer: up.shape}, WIDTH))
        for theirs in rows.shapes:
            yield theirs.removesuffix(".weight"), down, np.ascontiguousarray(rows.read(theirs))


def peft(folder):
    """As PEFT writes it: fused layers are split, alpha is in a JSON file."""
    halves = {}
    for name, down, up in halves_of_diffusers():
        halves[f"base_model.model.{name}.lora_A.weight"] = down
        halves[f"base_model.model.{name}.lora_B.weight"] = up
    official(folder, halves, "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def older_lora(folder):
    """As diffusers wrote it before PEFT: ups are multiplied by alpha / rank."""
    halves = {}
    for name, down, up in halves_of_diffusers():
        halves[f"transformer.{name}.lora.down.weight"] = down
        halves[f"transformer.{name}.lora.up.weight"] = up / 2
    return official(folder, halves, "pytorch_lora_weights.safetensors")


def added_layers():
    return [name for name in model_table(model_config()) if name in added()]


def autoencoder(folder):
    return official(folder, sizes=VAE)


# Files that are only recognized.


def of_names(*names, size=(2, 2)):
    """Returns a function that writes a file with tensors of these names."""

    def make(folder):
        folder.mkdir(parents=True)
        save_file(dict.fromkeys(names, np.zeros(size, np.float32)), folder / "x.safetensors")
        return folder / "x.safetensors"

    return make


def v1p2(folder):
    return official(folder, arrays_in() | {"text_token_mapping.weight": np.zeros((2, 2), "f4")})


def pipeline_v1p2(folder):
    return pipeline(folder, "Step1XEditPipelineV1P2")


def other_file(name, data):
    """Returns a function that writes a file with these bytes."""

    def make(folder):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)
        return folder / name

    return make


GGUF = other_file("x.gguf", b"GGUF" + bytes(60))
PICKLE = other_file("x.ckpt", pickle.dumps({"state_dict": {}}))
