"""launch.convert as a user runs it. What it makes of weights is tested in tests/weights."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import nnx
from safetensors.numpy import load_file, save_file

from launch.convert import main
from step1x_jax.errors import UserError
from step1x_jax.weights.files.fp8 import Fp8File, dequantize
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_autoencoder, load_model
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.readers import InMemory
from tests.golden import VECTORS
from tests.weights import round_trips
from tests.weights.formats import adapters_alone, diffusers
from tests.weights.models import published

FILE = "weights.safetensors"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.convert", *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_from_official_to_orbax_to_a_pipeline_and_back(tmp_path):
    """Every form in one chain; the numbers at its end are those of its beginning."""
    steps = [
        (VECTORS / "dit_v1_1", "run", "--to=orbax"),
        (tmp_path / "run", "pipeline", "--to=diffusers", f"--vae={VECTORS / 'vae'}"),
        (tmp_path / "pipeline", "parts"),
    ]
    for source, name, *more in steps:
        result = convert(f"--input={source}", f"--output={tmp_path / name}", *more)
        assert result.returncode == 0, result.stderr
        assert f"{tmp_path / name}: transformer" in result.stdout
    assert "Add Qwen2.5-VL as" not in result.stdout
    for part, name in (("transformer", "dit_v1_1"), ("autoencoder", "vae")):
        want = (VECTORS / name / FILE).read_bytes()
        assert (tmp_path / "parts" / part / FILE).read_bytes() == want
    # no temporary file is left
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "pipeline", "run"]


@pytest.mark.slow
def test_several_loras_are_merged_each_with_its_scale(tmp_path):
    out = tmp_path / "new folder" / "merged.safetensors"
    result = convert(
        f"--input={VECTORS / 'dit_v1_0'}", f"--output={out}", "--dtype=bfloat16",
        f"--lora={LORA}", f"--lora={LORA}", "--lora_scale=0.5", "--lora_scale=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    base = load_file(VECTORS / "dit_v1_0" / FILE)
    lora = LoraFile(LORA, model_table(load_model(VECTORS / "dit_v1_0").config))
    want = Merged(InMemory(base), [(lora, 2.5)]).read
    found = load_file(out)
    assert found.keys() == base.keys()
    name = "single_blocks.0.linear1.weight"
    assert np.abs(want(name) - base[name]).max() > 0.01
    for name, x in found.items():  # rounded to 8 bits of mantissa
        np.testing.assert_allclose(x.astype(np.float32), want(name), rtol=2**-8, atol=1e-6)


@pytest.mark.slow
def test_info_converts_nothing(tmp_path):
    result = convert(f"--input={VECTORS / 'dit_v1_0'}", "--info")
    assert result.returncode == 0, result.stderr
    assert "Step1X-Edit, official" in result.stdout
    assert "numbers  850,337" in result.stdout


@pytest.fixture
def own_flags():
    """The command's flags as they were, in this process."""
    with flagsaver.flagsaver():
        yield
        flags.FLAGS.unparse_flags()


def main_with(*arguments):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["convert", *map(str, arguments)])
    main()


@pytest.mark.parametrize("name", round_trips.WAYS)
def test_every_way_and_back_gives_the_same_bytes(tmp_path, own_flags, name):
    way = round_trips.WAYS[name]
    for arguments in round_trips.commands(way, tmp_path):
        main_with(*arguments)
    result = tmp_path / "back.safetensors"
    assert round_trips.contents(result) == round_trips.contents(way.source)


@pytest.mark.parametrize("scaled", [False, True])
def test_eight_bits_out_and_in(tmp_path, own_flags, capsys, scaled):
    """What comes back through diffusers, and through Orbax, is what the 8-bit file says."""
    eight = tmp_path / "eight" / "mine.safetensors"
    form = "float8_e4m3fn_scaled" if scaled else "float8_e4m3fn"
    main_with(f"--input={VECTORS / 'dit_v1_1'}", f"--output={eight}", f"--dtype={form}")
    file = SafetensorsFile(eight)
    name = "double_blocks.0.img_attn.qkv.weight"
    assert file.dtypes[name] == jnp.float8_e4m3fn
    assert ("scaled_fp8" in file.shapes) == scaled
    main_with(f"--input={eight}", "--info")
    assert f"stored   {'scaled fp8' if scaled else 'fp8'}\n" in capsys.readouterr().out
    seen = Fp8File(file)
    original = load_file(VECTORS / "dit_v1_1" / FILE)[name]
    limit = 2**-4 * np.abs(original) + 2**-9 * np.abs(original).max() + 2**-9
    # 2^-4 for 8 bits and 2^-8 for bfloat16; small numbers by the steps of the smallest
    assert (np.abs(seen.read(name).astype(np.float32) - original) <= 1.1 * limit).all()
    for to in ("diffusers", "orbax"):
        main_with(f"--input={eight}", f"--output={tmp_path / to}", f"--to={to}")
        back = tmp_path / f"back_{to}" / "x.safetensors"
        main_with(f"--input={tmp_path / to}", f"--output={back}")
        found = SafetensorsFile(back)
        assert found.shapes == seen.shapes
        for tensor in found.shapes:
            np.testing.assert_array_equal(found.read(tensor), seen.read(tensor))
            assert found.dtypes[tensor] == jnp.bfloat16
    main_with(f"--input={eight}", f"--output={tmp_path / 'w' / FILE}", "--dtype=float32")
    wide, exact = SafetensorsFile(tmp_path / "w" / FILE), Fp8File(file, "float32")
    np.testing.assert_array_equal(wide.read(name), exact.read(name))  # rounded once


def test_eight_bits_of_diffusers(tmp_path, own_flags):
    main_with(f"--input={VECTORS / 'dit_v1_1'}", f"--output={tmp_path / 'd'}", "--to=diffusers")
    path = tmp_path / "d" / "diffusion_pytorch_model.safetensors"
    tensors = {n: x.astype(jnp.float8_e4m3fn) for n, x in load_file(path).items()}
    scales = {"transformer_blocks.0.attn.to_k.scale_weight": np.array(3, np.float32)}
    scales |= {f"{n.removesuffix('.weight')}.scale_weight": np.array(1, np.float32)
               for n, x in tensors.items() if n.endswith(".weight") and x.ndim == 2
               and "0.attn.to_k" not in n}  # fmt: skip
    scales["single_transformer_blocks.0.attn.to_k.scale_weight"] = np.array(1, np.float32)
    save_file(tensors | scales | {"scaled_fp8": np.zeros(2, jnp.float8_e4m3fn)}, path)
    main_with(f"--input={tmp_path / 'd'}", f"--output={tmp_path / 'o' / FILE}")
    found = load_file(tmp_path / "o" / FILE)["double_blocks.0.img_attn.qkv.weight"]
    want = load_file(VECTORS / "dit_v1_1" / FILE)["double_blocks.0.img_attn.qkv.weight"]
    want = want.astype(jnp.float8_e4m3fn).astype(np.float32).reshape(3, -1)
    want[1] *= 3
    np.testing.assert_array_equal(found.reshape(3, -1), want.astype(jnp.bfloat16))


def test_a_lora_of_any_form_is_merged_alike(tmp_path, own_flags):
    """kohya's file, PEFT's folder, diffusers' file, and a folder of adapters."""
    for to, name in (("peft", "folder"), ("peft", "d.safetensors"), ("orbax", "run")):
        arguments = f"--input={LORA}", f"--base={VECTORS / 'dit_v1_0'}", f"--to={to}"
        main_with(*arguments, f"--output={tmp_path / name}")
    for i, lora in enumerate((LORA, *(tmp_path / n for n in ("folder", "d.safetensors", "run")))):
        main_with(
            f"--input={VECTORS / 'dit_v1_0'}", f"--output={tmp_path / str(i) / FILE}",
            f"--lora={lora}", "--lora_scale=0.5",
        )  # fmt: skip
    want = load_file(tmp_path / "0" / FILE)
    assert np.abs(want["img_in.weight"]).any()
    for i in (1, 2, 3):
        for name, x in load_file(tmp_path / str(i) / FILE).items():
            np.testing.assert_allclose(x, want[name], rtol=0, atol=1e-6)  # sums in parts
    # what the last one is as weights: its base and itself, in full strength
    main_with(f"--input={tmp_path / 'run'}", f"--base={VECTORS / 'dit_v1_0'}",
              f"--output={tmp_path / 'full' / FILE}")  # fmt: skip
    name = "single_blocks.0.linear1.weight"
    base, full = load_file(VECTORS / "dit_v1_0" / FILE), load_file(tmp_path / "full" / FILE)
    half = want[name] - base[name]
    np.testing.assert_allclose(full[name] - base[name], 2 * half, atol=1e-5)


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_info_of_a_lora_whose_sizes_are_known(tmp_path, own_flags, capsys, form):
    """PEFT has its alpha beside the tensors only."""
    base, path = f"--base={VECTORS / 'dit_v1_0'}", LORA
    if form == "peft":
        path = tmp_path / "peft"
        main_with(f"--input={LORA}", base, "--to=peft", f"--output={path}")
    main_with(f"--input={path}", base, "--info")
    text = capsys.readouterr().out
    assert "  for      a model of v1.0: 2 double and 3 single blocks" in text
    assert "  rank     4\n  alpha    2\n" in text
    main_with(f"--input={path}", "--info")  # of the release's sizes it is not
    text = capsys.readouterr().out
    assert "  rank     4\n" in text
    assert "not for a model of v1.1: 19 double and 38 single blocks" in text


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Adapters that do not say to which weights they belong, and a model of another class."""
    folder = tmp_path_factory.mktemp("folders")
    config = diffusers(folder / "class") / "config.json"
    values = json.loads(config.read_text()) | {"_class_name": "SD3Transformer2DModel"}
    config.write_text(json.dumps(values))
    return {"run": adapters_alone(folder / "adapters"), "class": folder / "class"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input={dit}"], "--output is missing"),
        (["--input={dit}", "--output={there}"], "exists; choose another name, or remove it"),
        (["--input={dit}", "--output={new}", "--to=diffusers"], "writes a folder"),
        (["--input={tmp}/x.ckpt", "--output={new}"], "is a pickle"),
        (["--input={vae}", "--output={tmp}/run", "--to=orbax"], "is an autoencoder"),
        (["--input={dit}", "--output={new}", "--vae={dit}"],
         "is Step1X-Edit, official, not an autoencoder"),
        (["--input={lora}", "--output={new}"],
         "is a LoRA in kohya's format, not a model; give the model, and this as --lora"),
        (["--input={lora}", "--output={tmp}/x", "--to=diffusers"], "and this as --lora"),
        (["--input={lora}", "--output={new}", "--to=kohya"], "it was made for another model"),
        (["--input={lora}", "--output={new}", "--to=kohya", "--base={vae}"], "is an autoencoder"),
        (["--input={dit}", "--output={new}", "--to=kohya"], "is no LoRA, and --to=kohya is a form"),
        (["--input={tmp}/absent", "--output={new}", "--to=peft"], "absent does not exist"),
        (["--input={lora}", "--output={new}", "--to=peft", "--lora={lora}"], "has none here"),
        (["--input={dit}", "--output={tmp}/x", "--to=orbax", "--dtype=float8_e4m3fn"],
         "--dtype=float8_e4m3fn is for --to=official"),
        (["--input={vae}", "--output={new}", "--dtype=float8_e4m3fn_scaled"],
         "is an autoencoder; only a model is written in 8 bits"),
        (["--input={dit}", "--output=gs://bucket/x", "--to=diffusers"],
         "is on an object store, where no folder appears as a whole; write it to a disk"),
        (["--input={dit}", "--output={new}", "--lora={dit}/weights.safetensors"],
         r"is not a LoRA \(Step1X-Edit, official\); give the file or folder of a LoRA"),
        (["--input={dit}", "--output={new}", "--lora={lora}", "--lora_scale=1", "--lora_scale=2"],
         "there are 1 --lora and 2 --lora_scale"),
        (["--input={cut}", "--output={tmp}/folder/x.safetensors"], "truncated"),
        (["--input={dit}", "--output={new}", "--ema"], "only runs have a moving average; leave"),
        (["--input={lora}", "--output={new}", "--to=kohya", "--base={dit}", "--ema"],
         "only runs have a moving average; leave --ema out"),
        (["--input={run}", "--output={new}", "--ema"], "has no moving average, .* leave --ema"),
        (["--input={run}", "--output={new}"], r"give them as --base to launch\.edit"),
        (["--input={run}", "--output={new}", "--base={vae}"], "is an autoencoder, .* not a model"),
        (["--input={dit}", "--output={new}", "--base={dit}"], "is not a run of adapters, and only"),
        (["--input={dit}", "--output={new}", "--lora={vae}"],
         r"is not a LoRA \(autoencoder, official\); give the file or folder of a LoRA"),
        (["--input={vae}", "--output={new}", "--lora={lora}"], "so LoRAs cannot be merged; leave"),
        (["--input={dit}", "--output={new}", "--lora={lora}", "--lora_scale=nan"],
         "the strength of a LoRA is nan; give a finite number"),
        (["--input={class}", "--output={new}"],
         "is of 'SD3Transformer2DModel', which cannot be used here; give a folder of Step1XEdit"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_nothing_is_written(
    tmp_path, own_flags, folders, arguments, words
):
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04.")
    there, cut = tmp_path / "there.safetensors", tmp_path / "cut.safetensors"
    save_file({"a": np.zeros(3)}, there)
    cut.write_bytes((VECTORS / "dit_v1_0" / FILE).read_bytes()[:-1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    places = folders | {
        "dit": VECTORS / "dit_v1_0", "vae": VECTORS / "vae", "lora": LORA, "tmp": tmp_path,
        "there": there, "cut": cut, "new": tmp_path / "new.safetensors",
    }  # fmt: skip
    with pytest.raises(UserError, match=words) as caught:
        main_with(*(argument.format(**places) for argument in arguments))
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def with_dtypes(folder, dtype_of):
    """The v1.1 vectors, each tensor in a dtype of its own."""
    folder.mkdir(parents=True)
    tensors = load_file(VECTORS / "dit_v1_1" / FILE)
    tensors = {name: x.astype(dtype_of(name)) for name, x in tensors.items()}
    save_file(tensors, folder / FILE)
    (folder / "config.json").write_text((VECTORS / "dit_v1_1" / "config.json").read_text())
    return tensors


MIXED = {
    "fp16": lambda name: np.float16,
    "bfloat16 first": lambda name: jnp.bfloat16 if name.startswith("img_in") else np.float32,
    "by block": lambda name: np.float16 if "blocks.1" in name else jnp.bfloat16,
}


@pytest.mark.parametrize("case", MIXED)
@pytest.mark.parametrize("to", ["official", "diffusers"])
def test_each_tensor_keeps_its_dtype(tmp_path, own_flags, case, to):
    tensors = with_dtypes(tmp_path / "in", MIXED[case])
    source = tmp_path / "in"
    if to == "diffusers":
        main_with(f"--input={source}", f"--output={tmp_path / 'd'}", "--to=diffusers")
        source = tmp_path / "d"
    main_with(f"--input={source}", f"--output={tmp_path / 'out' / FILE}")
    found = load_file(tmp_path / "out" / FILE)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)
    read = published_of(load_model(tmp_path / "out", dtype="float32"))
    for name, x in tensors.items():
        np.testing.assert_array_equal(read(name).astype(np.float32), x.astype(np.float32))


def published_of(model):
    return published(model.config, nnx.state(model)).read


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
@pytest.mark.parametrize("stored", ["bfloat16", "float8_e4m3fn_scaled"])
def test_a_sum_is_rounded_once(tmp_path, own_flags, stored, dtype):
    """float64 of the stored numbers and the LoRA, from an 8-bit base, too."""
    base = tmp_path / "base" / FILE
    main_with(f"--input={VECTORS / 'dit_v1_0'}", f"--output={base}", f"--dtype={stored}")
    out = tmp_path / "out" / FILE
    more = [f"--dtype={dtype}"] if dtype else []
    main_with(f"--input={base}", f"--output={out}", f"--lora={LORA}", *more)
    lora = LoraFile(LORA, model_table(load_model(VECTORS / "dit_v1_0").config))
    exact = dequantize(SafetensorsFile(base), "float32")
    found = load_file(out)
    # what float32 sums of 4 products may differ in is a last bit of the wanted dtype at times
    size = 2**-20 if dtype == "float32" else 2**-8
    wanted = np.dtype(np.float32 if dtype == "float32" else jnp.bfloat16)
    names = [name for name in exact.shapes if name.removesuffix(".weight") in lora.shapes]
    different = 0
    for name in names:
        (delta,) = lora.deltas(name.removesuffix(".weight"))
        product = delta.up.astype(np.float64) @ delta.down.astype(np.float64)
        want = exact.read(name).astype(np.float64) + 0.5 * product
        assert found[name].dtype == wanted
        np.testing.assert_allclose(found[name].astype(np.float64), want, rtol=size, atol=1e-6)
        once = want.astype(np.float32).astype(wanted)
        different += np.count_nonzero(found[name] != once)
    total = sum(np.prod(exact.shapes[name]) for name in names)
    assert different < (0.5 if dtype == "float32" else 0.001) * total
    assert found["img_in.bias"].dtype == wanted


@pytest.mark.parametrize("place", ["weights", "lora", "vae"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path, own_flags, place, value):
    source, name = {
        "weights": (VECTORS / "dit_v1_0", "single_blocks.1.linear1.weight"),
        "vae": (VECTORS / "vae", "decoder.conv_in.bias"),
        "lora": (LORA.parent, "lora_unet_single_blocks_0_linear2.lora_up.weight"),
    }[place]
    file = LORA if place == "lora" else source / FILE
    tensors = load_file(file)
    bad = tensors[name].copy()
    bad.flat[-1] = value
    (tmp_path / "in").mkdir()
    save_file(tensors | {name: bad}, tmp_path / "in" / FILE)
    base = VECTORS / "dit_v1_0"
    config = (base if place == "lora" else source) / "config.json"
    (tmp_path / "in" / "config.json").write_text(config.read_text())
    more = ["--to=kohya"] if place == "lora" else []
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"{name} has numbers that are not finite"):
        main_with(f"--input={tmp_path / 'in' / FILE}", f"--output={tmp_path / 'x.safetensors'}",
                  *more)  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(UserError, match=f"{name} has numbers that are not finite"):
        if place == "vae":
            load_autoencoder(tmp_path / "in")
        elif place == "weights":
            load_model(tmp_path / "in")
        else:
            load_model(open_weights(base, loras=[(tmp_path / "in" / FILE, 1.0)]))


def test_the_quickstart_by_its_name_and_a_home(tmp_path, own_flags, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    main_with("--input=quickstart", "--output=~/out/x.safetensors")
    assert (tmp_path / "out" / "x.safetensors").is_file()
    shipped = json.loads((tmp_path / "out" / "config.json").read_text())
    sizes = ["--base=quickstart", "--info"]
    main_with(f"--input={LORA}", *sizes)
    # a config.json that says the defaults is no other one; any other value is named
    (tmp_path / "out" / "config.json").write_text(json.dumps(shipped | {"quoting": "published"}))
    main_with("--input=quickstart", "--output=~/out/y.safetensors")
    (tmp_path / "out" / "config.json").write_text(json.dumps(shipped | {"quoting": "words"}))
    with pytest.raises(UserError, match="its quoting is 'words', here it is 'published'"):
        main_with("--input=quickstart", "--output=~/out/z.safetensors")


def test_names_with_brackets_and_a_slash_at_their_end(tmp_path, own_flags):
    folder = tmp_path / "a [v1] *"
    main_with(f"--input={VECTORS / 'dit_v1_1'}/", f"--output={folder}/", "--to=diffusers")
    main_with(f"--input={folder}/", f"--output={tmp_path / '[o]' / FILE}")
    want = (VECTORS / "dit_v1_1" / FILE).read_bytes()
    assert (tmp_path / "[o]" / FILE).read_bytes() == want
    base = f"--base={VECTORS / 'dit_v1_0'}"
    main_with(f"--input={LORA}", base, "--to=peft", f"--output={tmp_path / 'lora [x]'}/")
    main_with(f"--input={tmp_path / 'lora [x]'}", base, "--to=kohya",
              f"--output={tmp_path / '[k].safetensors'}")  # fmt: skip
    assert (tmp_path / "[k].safetensors").is_file()
    with pytest.raises(UserError, match="ends as a folder and as a file"):
        main_with(f"--input={folder}", f"--output={tmp_path / FILE}/")


def test_what_of_a_lora_does_nothing_is_said(tmp_path, own_flags, capsys):
    tensors = load_file(LORA)
    tensors["lora_unet_single_blocks_0_linear2.alpha"] = np.array(0, np.float32)
    encoder = {"lora_te1_q.lora_down.weight": np.ones((2, 8), np.float32),
               "lora_te1_q.lora_up.weight": np.ones((8, 2), np.float32)}  # fmt: skip
    save_file(tensors | encoder, tmp_path / "in.safetensors")
    base, out = f"--base={VECTORS / 'dit_v1_0'}", f"--output={tmp_path / 'out.safetensors'}"
    arguments = (f"--input={tmp_path / 'in.safetensors'}", "--to=kohya", base, out)
    with pytest.raises(UserError, match="--ignore=text_encoder converts the rest"):
        main_with(*arguments)
    main_with(*arguments, "--ignore=text_encoder")
    told = capsys.readouterr()
    assert "ignored 2 tensors of a text encoder" in told.out
    assert "switched off by an alpha of 0: lora_unet_single_blocks_0_linear2" in told.out
    assert "warning" not in told.err
    down, up = np.ones((2, 96), np.float32), np.ones((96, 2), np.float32)
    name = next(
        name for name, entry in model_table(load_model(VECTORS / "dit_v1_0").config).items()
        if name.startswith("connector.") and entry.shape == (96, 96)
    ).removesuffix(".weight")  # fmt: skip
    extra = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(load_file(LORA) | extra, tmp_path / "connector.safetensors")
    source, out = tmp_path / "connector.safetensors", tmp_path / "c.safetensors"
    main_with(f"--input={source}", "--to=kohya", base, f"--output={out}")
    assert "are the connector's, which ComfyUI drops" in capsys.readouterr().err


def test_the_same_input_gives_the_same_bytes(tmp_path, own_flags):
    metadata = {name: name for name in "hgfedcba"}
    (tmp_path / "in").mkdir()
    save_file(load_file(VECTORS / "dit_v1_1" / FILE), tmp_path / "in" / FILE, metadata)
    config = (VECTORS / "dit_v1_1" / "config.json").read_text()
    (tmp_path / "in" / "config.json").write_text(config)
    for i in range(2):
        for to in ("official", "diffusers"):
            main_with(f"--input={tmp_path / 'in'}", f"--output={tmp_path / str(i) / to}",
                      f"--to={to}")  # fmt: skip
    files = [path for path in sorted((tmp_path / "0").rglob("*")) if path.is_file()]
    assert len(files) == 4
    for path in files:
        assert path.read_bytes() == (tmp_path / "1" / path.relative_to(tmp_path / "0")).read_bytes()


def test_diffusers_autoencoder_is_loaded(tmp_path, own_flags):
    """And no other part in its place."""
    main_with(f"--input={VECTORS / 'vae'}", f"--output={tmp_path / 'vae'}", "--to=diffusers")
    one, other = load_autoencoder(VECTORS / "vae"), load_autoencoder(tmp_path / "vae")
    assert one.config == other.config
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (one, other)), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(UserError, match="is Step1X-Edit, official, not an autoencoder"):
        load_autoencoder(VECTORS / "dit_v1_1")


def test_what_is_no_model_is_told_what_it_is_and_what_to_do():
    for path, words in (
        (LORA, "is a LoRA in kohya's format, not a model; give the model, and this as --lora"),
        (VECTORS / "vae", "is an autoencoder, official, not a model; give it as --vae"),
    ):
        with pytest.raises(UserError, match=words):
            load_model(path)


@pytest.mark.parametrize("more", [["--to=diffusers"], ["--dtype=float8_e4m3fn_scaled"]])
def test_the_bar_is_full_at_the_end(tmp_path, own_flags, capsys, more):
    """Where tensors are read in parts, and where they are read twice."""
    output = tmp_path / ("x" if more == ["--to=diffusers"] else "x.safetensors")
    main_with(f"--input={VECTORS / 'dit_v1_1'}", f"--output={output}", *more)
    assert " 100%|" in capsys.readouterr().err.split("\r")[-1]


def test_a_pipeline_is_a_model(tmp_path, own_flags):
    """What launch.convert writes for diffusers is read where an official file is."""
    main_with(f"--input={VECTORS / 'dit_v1_1'}", f"--output={tmp_path / 'pipe'}", "--to=diffusers",
              f"--vae={VECTORS / 'vae'}")  # fmt: skip
    wanted = jax.tree.leaves(nnx.state(load_model(VECTORS / "dit_v1_1")))
    for path in (tmp_path / "pipe", tmp_path / "pipe" / "transformer"):
        for x, want in zip(jax.tree.leaves(nnx.state(load_model(path))), wanted, strict=True):
            np.testing.assert_array_equal(x, want)
    load_autoencoder(tmp_path / "pipe")


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    result = convert(f"--input={tmp_path / 'absent'}", f"--output={tmp_path / 'x.safetensors'}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: {tmp_path / 'absent'} does not exist")
