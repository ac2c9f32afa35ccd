"""Our exports in PyTorch: a module written for this, and diffusers' and PEFT's own code.

float32 everywhere, matmul precision highest; two orders of the same sums differ by rounding alone,
so the tolerance is that of the golden vectors, 2e-5 of the largest number or of 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.models.config import tiny
from step1x_jax.models.embeddings import rope_table
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model, token_positions
from step1x_jax.overrides import override
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.names import diffusers_layers, linear_shapes
from step1x_jax.weights.lora.writers import save_kohya, save_peft
from step1x_jax.weights.open import open_weights
from tests.weights.models import save_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="needs the extra [torch]")
B, H, W, T = 2, 4, 6, 8
LENGTHS = (3, 8)
TIMES = (0.3, 0.9)


@pytest.fixture(scope="module", params=["v1.0", "v1.1"])
def case(request, tmp_path_factory):
    """Our model with random weights (a new model's zero gates hide the blocks), and its export."""
    config = override(tiny(), {"version": request.param, "depth": 2, "depth_single_blocks": 2})
    rng = np.random.default_rng(0)
    graph, abstract = abstract_model(config)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 8, x.dtype), abstract)
    path = tmp_path_factory.mktemp("export") / "weights.safetensors"
    save_model(path, nnx.merge(graph, state))

    names = "latents", "reference"
    inputs = {name: rng.normal(size=(B, 16, H, W)).astype(np.float32) for name in names}
    text = rng.normal(size=(B, T, config.connector_in_channels)).astype(np.float32)
    inputs["mask"] = np.arange(T) < np.array(LENGTHS)[:, None]
    inputs["text"] = text * inputs["mask"][..., None]
    return config, path, inputs


def ours(model, inputs):
    """The velocity of our model, (B, 16, H, W)."""
    arrays = [inputs[name].transpose(0, 2, 3, 1) for name in ("latents", "reference")]
    arrays += [inputs["text"], np.array(LENGTHS, np.int32), np.array(TIMES, np.float32)]
    with jax.default_matmul_precision("highest"):
        velocity = nnx.jit(Step1XEdit.__call__)(model, *map(jnp.asarray, arrays))
    return np.asarray(velocity).transpose(0, 3, 1, 2)


def theirs(config, tensors, inputs):
    """The velocity of the module of torch_step1x.py with these weights."""
    from tests.weights.torch_step1x import TorchStep1X

    model = TorchStep1X(config)
    model.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})  # strict
    names = "latents", "reference", "text", "mask"
    with torch.no_grad():
        arrays = [torch.tensor(inputs[name]) for name in names]
        return model(*arrays, torch.tensor(TIMES)).numpy()


def assert_close(x, y):
    assert np.abs(y).max() > 0.1  # the output is not trivial
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * max(1, np.abs(y).max()))


def test_our_export_is_the_model_in_plain_torch(case):
    config, path, inputs = case
    assert_close(theirs(config, load_file(path), inputs), ours(load_model(path), inputs))


def write_lora(path, config, wanted=lambda name: True, scale=0.1):
    """A PEFT file with different downs for each split layer. Rank and alpha are 3 and 6, except
    in two layers; the name of one of these, proj_out, is a suffix of others' names."""
    rng = np.random.default_rng(1)
    tensors = {}
    for module, shape in linear_shapes(model_table(config)).items():
        for rows in diffusers_layers(module, shape):
            if wanted(rows.name):
                rank, alpha = (5, 1) if rows.name in ("proj_out", "x_embedder") else (3, 6)
                a, b = rng.normal(size=(rank, shape[1])), rng.normal(size=(rows.size, rank))
                tensors[f"{rows.name}.lora_A.weight"] = (scale * a).astype(np.float32)
                tensors[f"{rows.name}.lora_B.weight"] = (scale * b).astype(np.float32)
                tensors[f"{rows.name}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path)


def test_our_kohya_file_does_in_torch_what_it_does_here(case, tmp_path):
    """Merged on loading here, added to the module's weights by kohya's formula and names there."""
    config, path, inputs = case
    write_lora(tmp_path / "peft.safetensors", config)
    lora = LoraFile(tmp_path / "peft.safetensors", model_table(config))
    save_kohya(tmp_path / "kohya.safetensors", lora)

    tensors, changed = load_file(path), 0
    kohya = load_file(tmp_path / "kohya.safetensors")
    for name, weight in tensors.items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{key}.alpha" in kohya:
            up, down = kohya[f"{key}.lora_up.weight"], kohya[f"{key}.lora_down.weight"]
            tensors[name] = weight + kohya[f"{key}.alpha"] / len(down) * up @ down
            changed += 1
    assert changed == len(kohya) / 3 == len(linear_shapes(model_table(config)))
    model = load_model(open_weights(path, loras=[(tmp_path / "peft.safetensors", 1.0)]))
    assert_close(theirs(config, tensors, inputs), ours(model, inputs))
    assert np.abs(ours(model, inputs) - ours(load_model(path), inputs)).max() > 0.1


# Names that differ between diffusers' FLUX.1 and its Step1X-Edit.
EMBEDDERS = {
    f"{there}_embed.{layer}": f"time_text_embed.{flux_}_embedder.{linear}"
    for there, flux_ in (("time", "timestep"), ("vec", "text"))
    for layer, linear in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
}
NORMS = {
    "double_blocks.{}.img_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_q.weight",
    "double_blocks.{}.img_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_k.weight",
    "double_blocks.{}.txt_attn.norm.query_norm.scale":
        "transformer_blocks.{}.attn.norm_added_q.weight",
    "double_blocks.{}.txt_attn.norm.key_norm.scale":
        "transformer_blocks.{}.attn.norm_added_k.weight",
    "single_blocks.{}.norm.query_norm.scale": "single_transformer_blocks.{}.attn.norm_q.weight",
    "single_blocks.{}.norm.key_norm.scale": "single_transformer_blocks.{}.attn.norm_k.weight",
}  # fmt: skip


@pytest.fixture
def flux(case):
    """diffusers' FLUX.1 with our DiT's weights, by the names and rows of weights/lora/names.py."""
    reason = "needs the extra [diffusers]"
    diffusers = pytest.importorskip("diffusers", reason=reason)
    pytest.importorskip("peft", reason=reason)
    config, path, _ = case
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=config.in_channels,
        num_layers=config.depth,
        num_single_layers=config.depth_single_blocks,
        attention_head_dim=config.head_dim,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_in_dim,
        pooled_projection_dim=config.vec_in_dim,
        guidance_embeds=False,
        axes_dims_rope=config.axes_dim,
    )
    tensors, state = load_file(path), {}
    for module, shape in linear_shapes(model_table(config)).items():
        if module.startswith("connector."):
            continue
        for rows in diffusers_layers(module, shape):
            name = EMBEDDERS.get(rows.name, rows.name)
            for kind in ("weight", "bias"):
                state[f"{name}.{kind}"] = rows.take(tensors[f"{module}.{kind}"])
    for i in range(2):
        state |= {flux_.format(i): tensors[ours_.format(i)] for ours_, flux_ in NORMS.items()}
    model.load_state_dict({name: torch.tensor(x) for name, x in state.items()})  # strict
    return model.eval()


def both_dits(case, flux, loras=()):
    """Returns the outputs of our DiT and of diffusers' for the same tokens: all image tokens."""
    config, path, inputs = case
    model = load_model(open_weights(path, loras=loras))
    lengths, times = np.array(LENGTHS, np.int32), np.array(TIMES, np.float32)
    rng = np.random.default_rng(2)
    image = rng.normal(size=(B, 2 * H * W // 4, config.in_channels)).astype(np.float32)
    ids = token_positions(config.version, [(H, W), (H, W)], T)
    rope = jnp.asarray(rope_table(ids, config.axes_dim, config.theta))
    with jax.default_matmul_precision("highest"):
        text, vector = nnx.jit(type(model.connector).__call__)(
            model.connector, inputs["text"], lengths, times
        )
        here = nnx.jit(type(model.transformer).__call__)(
            model.transformer, image, text, vector, times, rope, np.full(B, len(ids)), None
        )
    n = image.shape[1]
    with torch.no_grad():
        there = flux(
            hidden_states=torch.tensor(image),
            encoder_hidden_states=torch.tensor(np.array(text)),
            pooled_projections=torch.tensor(np.array(vector)),
            timestep=torch.tensor(times),
            img_ids=torch.tensor(ids[:n]).float(),
            txt_ids=torch.tensor(ids[n:]).float(),
            return_dict=False,
        )[0]
    return np.asarray(here), there.numpy()


@pytest.mark.slow
def test_diffusers_flux_is_our_dit(case, flux):
    """Confirms the names, the rows, and that scale and shift are exchanged."""
    here, there = both_dits(case, flux)
    assert_close(there, here)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["header", "file", "peft"])
def test_peft_adds_our_lora_to_diffusers_flux(case, flux, tmp_path, form):
    """Unmerged in PEFT, merged in ours; two ways to load diffusers' file,
    of which one reads the settings in its header and the other does not."""
    config, _, _ = case
    write_lora(
        tmp_path / "any.safetensors",
        config,
        lambda name: not name.startswith(("connector.", *EMBEDDERS)),
    )
    lora = LoraFile(tmp_path / "any.safetensors", model_table(config))
    before, _ = both_dits(case, flux)
    if form != "peft":
        save_peft(tmp_path / "lora.safetensors", lora)
        if form == "file":
            flux.load_lora_adapter(str(tmp_path / "lora.safetensors"))
        else:
            flux.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors")
        model = flux
    else:
        from peft import PeftModel

        save_peft(tmp_path / "folder", lora)
        model = PeftModel.from_pretrained(flux, str(tmp_path / "folder")).eval()
    here, there = both_dits(case, model, [(tmp_path / "any.safetensors", 1.0)])
    assert_close(there, here)
    assert np.abs(here - before).max() > 0.1
