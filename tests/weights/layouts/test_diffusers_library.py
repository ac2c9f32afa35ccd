"""Our folders loaded by diffusers, against golden numbers.

Skipped where diffusers is not installed.

The class of pull request 12249 is not in a release. Its DiT is FluxTransformer2DModel's but for the
names of two embedders, so that class with these renamed stands in for it; the connector, whose
names are the official ones, is not run here.
"""

import json

import numpy as np
import pytest

from step1x_jax.weights.open import open_weights
from step1x_jax.weights.save import write_diffusers
from tests.golden import VECTORS

pytestmark = pytest.mark.torch
diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusers]")
torch = pytest.importorskip("torch", reason="needs the extra [torch]")

# Sums of a few thousand float32 products in another order; as the golden outputs themselves.
CLOSE = 2e-5


def close(ours, golden):
    limit = CLOSE * max(1.0, float(np.abs(golden).max()))
    assert float(np.abs(ours.numpy() - golden).max()) <= limit


def test_autoencoder_kl_gives_the_golden_pictures(tmp_path):
    write_diffusers(tmp_path / "vae", {"vae": open_weights(VECTORS / "vae")})
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False)
    case = np.load(VECTORS / "vae" / "case.npz")
    scale, shift = model.config.scaling_factor, model.config.shift_factor
    with torch.no_grad():
        moments = model.encode(torch.from_numpy(case["image"])).latent_dist
        picture = model.decode(torch.from_numpy(case["latents"]) / scale + shift).sample
    close(moments.mean, case["mean"])
    close(moments.logvar, case["logvar"])
    close((moments.mean - shift) * scale, case["latents"])
    close(picture, case["decoded"])


@pytest.mark.parametrize("name", ["dit_v1_0", "dit_v1_1"])
def test_the_dit_gives_the_golden_tokens(tmp_path, name):
    from safetensors.torch import load_file

    write_diffusers(tmp_path / "dit", {"transformer": open_weights(VECTORS / name)})
    config = json.loads((tmp_path / "dit" / "config.json").read_text())
    model = diffusers.FluxTransformer2DModel(
        pooled_projection_dim=config["vector_in_dim"],
        **{key: config[key] for key in (
            "in_channels", "out_channels", "num_layers", "num_single_layers", "patch_size",
            "attention_head_dim", "num_attention_heads", "joint_attention_dim", "axes_dims_rope",
            "guidance_embeds",
        )},
    )  # fmt: skip
    embedders = {"time_embed": "timestep_embedder", "vec_embed": "text_embedder"}
    layers = {"in_layer": "linear_1", "out_layer": "linear_2"}
    state = {}
    for key, x in load_file(tmp_path / "dit" / "diffusion_pytorch_model.safetensors").items():
        first, *rest = key.split(".")
        if first in embedders:
            key = f"time_text_embed.{embedders[first]}.{layers[rest[0]]}.{rest[1]}"
        if first != "connector":
            state[key] = x
    model.load_state_dict(state, strict=True)

    case = np.load(VECTORS / name / "case.npz")
    tokens = [pack(torch.from_numpy(case[key])) for key in ("latents", "ref_latents")]
    text = torch.from_numpy(case["connector_tokens"])
    ids = (
        torch.from_numpy(case["img_ids"]).float().reshape(-1, 3)[: sum(x.shape[1] for x in tokens)]
    )
    with torch.no_grad():
        output = model(
            hidden_states=torch.cat(tokens, dim=1),
            encoder_hidden_states=text,
            pooled_projections=torch.from_numpy(case["connector_vec"]),
            timestep=torch.from_numpy(case["timesteps"]),
            img_ids=ids,
            txt_ids=torch.zeros(text.shape[1], 3),
        ).sample
    close(output, case["output_tokens"])


def pack(latents):
    """(B, C, 2h, 2w) -> (B, h * w, 4 C), channel-major."""
    b, c, h, w = latents.shape
    x = latents.reshape(b, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)
