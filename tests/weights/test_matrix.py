"""Every format of weights in every use: it works exactly, or the error says what to do instead."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.starting import open_start_weights
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.weights import load
from step1x_jax.weights import open as opening
from step1x_jax.weights.info import describe_weights
from step1x_jax.weights.load import load_model, load_parameters
from step1x_jax.weights.open import check_is_model, open_lora, open_weights
from step1x_jax.weights.run import reader
from tests.launch.test_convert import main_with, own_flags  # noqa: F401
from tests.training.tiny import tiny_config
from tests.weights import formats
from tests.weights.models import published
from tests.weights.round_trips import contents

# What each format is (launch.convert --info), what it holds, and what may be done with it:
# - edit: opened, checked to be a model and loaded, as load_editor does
# - start: training.start_from, onto eight devices
# - base: that of a run of adapters, which was trained on the same numbers elsewhere
# - the rest: launch.convert --to.
# yes: it works; a word: refused with the message in REFUSALS; -: there is no such flag.
TABLE = """
format                  | title                  | holds   | edit  | start | base  | official | diffusers | orbax | kohya | peft
official file           | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
official file, v1.0     | Step1X-Edit, official  | v1.0    | yes   | yes   | other | yes      | folded    | yes   | model | model
with a prefix           | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
official shards         | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
index of shards         | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
diffusers folder        | Step1X-Edit, diffusers | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
diffusers file          | Step1X-Edit, diffusers | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
diffusers shards        | Step1X-Edit, diffusers | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
diffusers pipeline      | Step1X-Edit, diffusers | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
release's folder        | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
folder of parts         | Step1X-Edit, official  | golden  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
run                     | a run's folder         | golden  | yes   | yes   | yes   | yes      | yes       | yes   | all   | all
run, --ema              | a run's folder         | half    | yes   | -     | -     | yes      | yes       | yes   | all   | all
run of adapters         | a run's folder         | merged  | yes   | yes   | yes   | yes      | yes       | yes   | yes   | yes
run of adapters, --ema  | a run's folder         | quarter | yes   | -     | -     | yes      | yes       | yes   | yes   | yes
adapters alone          | adapters alone         | merged  | base? | base? | base? | base?    | base?     | base? | yes   | yes
adapters alone, --base  | adapters alone         | merged  | yes   | -     | -     | yes      | yes       | yes   | yes   | yes
weights alone           | weights alone          | golden  | yes   | yes   | yes   | yes      | yes       | yes   | all   | all
fp8                     | Step1X-Edit, official  | 8 bits  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
fp8 of diffusers        | Step1X-Edit, diffusers | 8 bits  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
scaled fp8              | Step1X-Edit, official  | 8 bits  | yes   | yes   | yes   | yes      | yes       | yes   | model | model
FLUX.1                  | FLUX.1, official       | begun   | flux  | yes   | flux  | yes      | yes       | yes   | model | model
FLUX.1 of diffusers     | FLUX.1, diffusers      | begun   | flux  | yes   | flux  | yes      | yes       | yes   | model | model
LoRA of kohya           | LoRA in kohya's format | lora    | lora  | lora  | lora  | lora     | lora      | yes   | yes   | yes
LoRA of PEFT            | LoRA in PEFT's format  | lora    | lora  | lora  | lora  | lora     | lora      | yes   | yes   | yes
older LoRA of diffusers | LoRA in diffusers'     | lora    | lora  | lora  | lora  | lora     | lora      | yes   | yes   | yes
autoencoder             | autoencoder, official  | vae     | vae   | vae   | vae   | yes      | yes       | part  | model | model
autoencoder, diffusers  | autoencoder, diffusers | vae     | vae   | vae   | vae   | yes      | yes       | part  | model | model
"""  # noqa: E501
REFUSALS = {
    "model": r"is no LoRA, and --to=\w+ is a format of LoRAs alone\.",
    "all": r"trained all parameters, so it has no adapters; use it as a model\.",
    "other": r"is Step1X-Edit v1\.0, but the adapters in .* were trained on v1\.1; give their base",
    "base?": r"holds adapters, but the weights on which they were trained are not in it .*;"
    r" give them as --base",
    "flux": r"is FLUX\.1, .*, which cannot edit pictures; convert it to a model .* launch\.convert",
    "lora": r"is a LoRA in .* format, not a model; give the model, and this as --lora",
    "vae": r"is an autoencoder, .*, not a model; give it as --vae\.",
    "part": r"--to=orbax is for a model; .* is an autoencoder\.",
}
NO_WAY = {  # in every use
    "v1p2": (formats.v1p2, r"is of Step1X-Edit v1p2, .*; .*: give v1\.0 or v1\.1\."),
    "pipeline of v1p2": (
        formats.pipeline_v1p2,
        r"is of 'Step1XEditPipelineV1P2', .*; give one of these, or a model of Step1X-Edit v1\.0",
    ),
    "GGUF": (formats.GGUF, r"is a GGUF file, .*; give the weights in \.safetensors"),
    "pickle": (formats.PICKLE, r"is a pickle, .* so it is not opened;"
    r" .* give the \.safetensors file"),
    "Qwen2.5-VL": (
        formats.of_names("model.layers.0.mlp.up_proj.weight", "visual.blocks.0.norm1.weight"),
        r"is of Qwen2\.5-VL, .*; give its folder as --text_encoder",
    ),
    "T5": (
        formats.of_names("encoder.block.0.layer.0.x.weight", "shared.weight"), "is of T5 or CLIP"
    ),
    "Stable Diffusion": (
        formats.of_names("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"),
        "is of Stable Diffusion, ",
    ),
    "SD3": (
        formats.of_names("model.diffusion_model.joint_blocks.0.x.weight"),
        "is of Stable Diffusion 3, ",
    ),
    "FLUX.2": (
        formats.of_names(
            "double_blocks.0.img_attn.qkv.weight", "img_in.weight",
            "double_stream_modulation_img.lin.weight",
        ),
        r"is of FLUX\.2, ",
    ),
    "Chroma": (
        formats.of_names(
            "double_blocks.0.img_attn.qkv.weight", "img_in.weight",
            "distilled_guidance_layer.in_proj.weight",
        ),
        "is of Chroma, ",
    ),
    "Qwen-Image": (
        formats.of_names("transformer_blocks.0.img_mod.1.weight", "img_in.weight"),
        "is of Qwen-Image, ",
    ),
    "Wan": (
        formats.of_names("blocks.0.cross_attn.k.weight", "patch_embedding.weight"), "is of Wan, "
    ),
    "HunyuanVideo": (
        formats.of_names(
            "double_blocks.0.img_attn.qkv.weight", "img_in.proj.weight",
            "txt_in.individual_token_refiner.blocks.0.x.weight",
        ),
        "is of HunyuanVideo, ",
    ),
    "LoKr": (
        formats.of_names("lycoris_double_blocks_0_img_attn_proj.lokr_w1"),
        r"is a LoKr adapter, but only LoRAs can be read; merge it into its model",
    ),
}  # fmt: skip


FORMATS = {
    "official file": formats.official,
    "official file, v1.0": formats.official_v1_0,
    "with a prefix": formats.with_prefix,
    "official shards": formats.official_shards,
    "index of shards": formats.index_of_shards,
    "diffusers folder": formats.diffusers,
    "diffusers file": formats.file_of_diffusers,
    "diffusers shards": formats.diffusers_shards,
    "diffusers pipeline": formats.pipeline,
    "release's folder": formats.release,
    "folder of parts": formats.parts,
    "run": formats.run,
    "run, --ema": formats.run,
    "run of adapters": formats.run_of_adapters,
    "run of adapters, --ema": formats.run_of_adapters,
    "adapters alone": formats.adapters_alone,
    "adapters alone, --base": formats.adapters_alone,
    "weights alone": formats.weights_alone,
    "fp8": formats.eight_bits,
    "fp8 of diffusers": formats.eight_bits_of_diffusers,
    "scaled fp8": formats.scaled_eight_bits,
    "FLUX.1": formats.flux,
    "FLUX.1 of diffusers": formats.flux_of_diffusers,
    "LoRA of kohya": formats.kohya,
    "LoRA of PEFT": formats.peft,
    "older LoRA of diffusers": formats.older_lora,
    "autoencoder": formats.autoencoder,
    "autoencoder, diffusers": formats.vae_of_diffusers,
}
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
USES = ROWS[0][3:]
HOLDS = {row[0]: row[2] for row in ROWS[1:]}
# Orbax takes a second for each case: for equal contents, only the first format is a quick test.
FIRST = {holds: fmt for fmt, holds in reversed(HOLDS.items())}
CASES = [
    pytest.param(
        row[0], use, cell, id=f"{row[0]}: {use}",
        marks=[pytest.mark.slow] * (use == "orbax" and FIRST[row[2]] != row[0]),
    )
    for row in ROWS[1:]
    for use, cell in zip(USES, row[3:], strict=True)
    if cell != "-"
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a function that makes each file once and returns its path."""
    folder = tmp_path_factory.mktemp("formats")

    @functools.cache
    def path_of(make, *arguments):
        return make(folder / f"{len(list(folder.iterdir()))}" / "it", *arguments)

    return path_of


def once(function):
    """Caches a function by the repr of its arguments."""
    known = {}

    def remembered(*arguments):
        key = repr(arguments)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return remembered


@pytest.fixture(scope="module", autouse=True)
def small_and_quick():
    """Models of equal sizes are traced once, and the release's autoencoder, for which no
    config.json gives the sizes, is the golden one."""
    sizes = opening.open_weights(formats.VAE).config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "AutoencoderConfig", lambda: AutoencoderConfig(**vars(sizes)))
        for module, name in (
            (opening, "official_shapes"),
            (load, "abstract_model"),
            (reader, "abstract_adapters"),
        ):
            patch.setattr(module, name, once(getattr(module, name)))
        yield


def numbers(fmt, dtype=None):
    """Returns the expected tensors of a format; a dtype casts, or dequantizes 8 bits."""
    arrays = {
        "golden": formats.arrays_in,
        "v1.0": lambda: formats.arrays_in(formats.GOLDEN_0),
        "half": lambda: {name: x / 2 for name, x in formats.arrays_in().items()},
        "merged": lambda: formats.with_lora(formats.arrays_in()),
        "quarter": lambda: formats.with_lora(formats.arrays_in(), 0.25),
        "8 bits": lambda: formats.from_eight_bits(fmt == "scaled fp8", dtype or jnp.bfloat16),
        "begun": formats.begun,
        "vae": lambda: formats.arrays_in(formats.VAE),
    }[HOLDS[fmt]]()
    return arrays if dtype is None else {n: x.astype(dtype) for n, x in arrays.items()}


def check_same(read, want, fmt):
    """Asserts equality; only a connector drawn under jit may differ by rounding."""
    for name, x in want.items():
        found = read(name)
        assert found.dtype == x.dtype, name
        drawn = HOLDS[fmt] == "begun" and name.startswith("connector.")
        np.testing.assert_allclose(found, x, rtol=1e-6 if drawn else 0, err_msg=name)


def options(fmt):
    """Returns the arguments of open_weights besides the path."""
    more = {"ema": True} if fmt.endswith("--ema") else {}
    return more | ({"base": formats.GOLDEN} if fmt.endswith("--base") else {})


# One function per use; each checks its result.


def edit(fmt, path, made):
    weights = open_weights(path, **options(fmt))
    check_is_model(weights)
    model = load_model(weights)
    want = numbers(fmt)
    assert model.config.param_dtype == ("bfloat16" if HOLDS[fmt] == "8 bits" else "float32")
    check_same(published(model.config, nnx.state(model)).read, want, fmt)


@functools.cache
def wanted_state(version):
    """Returns a run's config and its abstract parameters on eight devices."""
    config = override(
        tiny_config(),
        {
            "mesh": MeshConfig(fsdp=4, tensor=2),
            "model": load_model(formats.GOLDEN_0 if version == "v1.0" else formats.GOLDEN).config,
        },
    )
    return config, abstract_state(config, make_mesh(config.mesh)).params


def start(fmt, path, made):
    config, wanted = wanted_state(HOLDS.get(fmt))
    config = override(config, {"training.start_from": str(path)})
    params = load_parameters(open_start_weights(config, print), wanted)
    assert {len(x.sharding.device_set) for x in nnx.to_pure_dict(params)["transformer"]["img_in"]
            .values()} == {8}  # fmt: skip
    want = numbers(fmt, np.float32)
    check_same(published(config.model, params).read, want, fmt)


def base(fmt, path, made):
    adapters = made(formats.run_of_adapters)
    if HOLDS[fmt] in ("8 bits", "merged"):
        adapters = made(trained_on, fmt)
    tensors = open_weights(adapters, base=path).tensors
    check_same(tensors.read, formats.with_lora(numbers(fmt, np.float32)), fmt)


def trained_on(folder, fmt):
    """A run of adapters whose base is known only by its fingerprints."""
    tensors = numbers(fmt, np.float32)
    return formats.run_of_adapters(folder, base="elsewhere", tensors=tensors)


def convert(fmt, path, made, to):
    flags = [f"--{name}={value}" for name, value in options(fmt).items()]
    out = made(place_for, fmt, to)
    main_with(f"--input={path}", f"--output={out}", f"--to={to}", *flags)
    return out


def place_for(folder, fmt, to):
    """Returns a new path: a file or folder, as the target requires."""
    folder.parent.mkdir()
    return folder.with_suffix(".safetensors") if to == "kohya" else folder


def official(fmt, path, made):
    out = convert(fmt, path, made, "official")
    part = "autoencoder" if HOLDS[fmt] == "vae" else "transformer"
    written = load_file(out / part / formats.FILE)
    want = numbers(fmt)
    assert written.keys() == want.keys()
    check_same(written.__getitem__, want, fmt)
    whole = fmt in ("diffusers pipeline", "release's folder", "folder of parts")
    if whole:
        assert contents(out / "autoencoder" / formats.FILE) == contents(formats.VAE / formats.FILE)
    assert len(list(out.iterdir())) == 1 + whole


def diffusers(fmt, path, made):
    out = convert(fmt, path, made, "diffusers")
    place = out / "transformer" if (out / "transformer").exists() else out
    written = load_file(place / f"{formats.STEM}.safetensors")
    if HOLDS[fmt] == "vae":
        want = load_file(made(formats.vae_of_diffusers) / f"{formats.STEM}.safetensors")
    else:
        arrays = numbers(fmt)
        want = formats.to_diffusers(formats.folded(arrays) if HOLDS[fmt] == "v1.0" else arrays)
    assert written.keys() == want.keys()
    check_same(written.__getitem__, want, fmt)


def orbax(fmt, path, made):
    out = convert(fmt, path, made, "orbax")
    if HOLDS[fmt] == "lora":
        check_lora(out, fmt)
    else:
        check_same(open_weights(out).tensors.read, numbers(fmt), fmt)


def kohya(fmt, path, made):
    check_lora(convert(fmt, path, made, "kohya"), fmt)


def peft(fmt, path, made):
    check_lora(convert(fmt, path, made, "peft"), fmt)


def check_lora(path, fmt):
    """Asserts that a LoRA adds what the golden one adds, or a quarter of it."""
    strength = 0.25 if HOLDS[fmt] == "quarter" else 1
    lora = open_lora(path, formats.model_config())
    assert {f"{module}.weight" for module in lora.shapes} == formats.added().keys()
    for module, shape in lora.shapes.items():
        found = np.zeros(shape, np.float32)
        for piece in lora.deltas(module):
            found[piece.start : piece.start + len(piece.up)] += piece.scale * piece.up @ piece.down
        want = strength * formats.added()[f"{module}.weight"]
        np.testing.assert_allclose(found, want, atol=1e-6)  # float32 sums, of parts of the rows


DO = dict(zip(USES, (edit, start, base, official, diffusers, orbax, kohya, peft), strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("own_flags")
@pytest.mark.parametrize(("fmt", "use", "cell"), CASES)
def test_every_form_in_every_use(made, fmt, use, cell):
    path = made(FORMATS[fmt])
    do = DO[use]
    if cell in REFUSALS:
        with pytest.raises(UserError, match=REFUSALS[cell]) as caught:
            do(fmt, path, made)
        assert str(caught.value).count("\n") == 0
    else:
        assert cell in ("yes", "folded")
        do(fmt, path, made)


@pytest.mark.parametrize("row", ROWS[1:], ids=[row[0] for row in ROWS[1:]])
def test_every_format_is_detected(made, row):
    fmt, title, *_ = row
    assert f"  format   {title}" in "\n".join(describe_weights(made(FORMATS[fmt])))


@pytest.mark.usefixtures("own_flags")
@pytest.mark.parametrize("fmt", NO_WAY)
def test_what_is_only_recognised_says_so_in_every_use(made, fmt):
    make, words = NO_WAY[fmt]
    path = made(make)
    uses = {
        "edit": lambda: Editor.load(str(path)),
        "start": lambda: start(fmt, path, made),
        "base": lambda: open_weights(made(formats.run_of_adapters), base=path),
        "info": lambda: describe_weights(path),
        "lora": lambda: open_weights(formats.GOLDEN, loras=[(path, 1.0)]),
    }
    uses |= {
        to: functools.partial(convert, fmt, path, made, to)
        for to in ("official", "diffusers", "orbax", "kohya", "peft")
    }
    said = {}
    for use, do in uses.items():
        try:
            do()
        except UserError as e:
            said[use] = str(e)
    wrong = {u: said.get(u) for u in uses if not re.search(words, said.get(u) or "")}
    assert not wrong
