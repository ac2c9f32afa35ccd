"""8-bit files in and out, against a decoder written from the format's definition, and torch's."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.weights.files.fp8 import (
    E4M3,
    Fp8File,
    QuantizeToFp8,
    dequantize,
    is_fp8_weight,
    number_format,
    round_to_fp8,
)
from step1x_jax.weights.files.opening import open_file
from step1x_jax.weights.files.safetensors_io import SafetensorsFile, write_safetensors
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.readers import Cast, InMemory, Override
from tests.golden import VECTORS
from tests.weights.models import published

BASE = VECTORS / "dit_v1_1"
LINEAR = "double_blocks.0.img_attn.qkv"
OTHER = "single_blocks.0.linear1"


def decoded(stored):
    """float8_e4m3fn by its definition: sign, 4 bits of exponent (bias 7), 3 of fraction."""
    bits = stored.view(np.uint8).astype(np.int64)
    sign, exponent, fraction = bits >> 7, bits >> 3 & 15, bits & 7
    size = np.where(
        exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7)
    )
    assert not np.any((exponent == 15) & (fraction == 7))  # NaN
    return np.where(sign, -size, size)


@pytest.fixture(scope="module")
def base():
    return SafetensorsFile(BASE / "weights.safetensors")


def save(path, base, scaled, dtype=np.float32):
    return save_reader(path, Cast(base, np.dtype(dtype)), scaled)


def save_reader(path, reader, scaled):
    eight = QuantizeToFp8(reader, scaled=scaled)
    write_safetensors(path, eight)
    return SafetensorsFile(path)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
def test_what_is_written_is_near_and_comes_back_exactly(tmp_path, base, scaled, dtype):
    """Half a unit in the last place: 2^-4 of a number, or 2^-10 scale for subnormal numbers; a
    division in float32 comes before, hence 1 + 2^-20."""
    file = save(tmp_path / "eight.safetensors", base, scaled, dtype)
    assert number_format(file) == ("scaled fp8" if scaled else "fp8")
    assert number_format(base) == "plain"
    seen = Fp8File(file, "float32")
    assert seen.shapes == base.shapes
    eights = 0
    for name in base.shapes:
        original = base.read(name).astype(dtype).astype(np.float64)
        if file.dtypes[name] != E4M3:
            assert file.dtypes[name] == jnp.bfloat16
            np.testing.assert_array_equal(seen.read(name), original.astype(jnp.bfloat16))
            continue
        eights += 1
        scale = np.float64(1)
        if scaled:
            scale = np.float64(file.read(name.removesuffix("weight") + "scale_weight"))
            assert scale == np.float32(np.abs(original).max() / 448)
        exact = decoded(file.read(name)) * scale
        np.testing.assert_array_equal(seen.read(name), exact.astype(np.float32))
        bound = np.maximum(2.0**-4 * np.abs(original), 2.0**-10 * scale) * (1 + 2.0**-20)
        assert np.all(np.abs(exact - original) <= bound)
        if scaled:
            assert np.abs(decoded(file.read(name))).max() == 448
    assert eights == sum(is_fp8_weight(*item) for item in base.shapes.items())


def test_the_nearest_number_is_taken_and_the_even_one_of_two():
    """Neighbours 1.0 and 1.125, 0 and 2^-9; for 16-bit numbers by a table."""
    numbers = np.array(
        [1.0625, 1.0626, 1.1875, 2.0**-10, 3 * 2.0**-10, -1.0625, 448, 0], np.float32
    )
    want = [1.0, 1.125, 1.25, 0, 2.0**-8, -1.0, 448, 0]
    np.testing.assert_array_equal(decoded(round_to_fp8(numbers, np.float32(1))), want)
    many = np.random.default_rng(0).normal(size=(3, 70_000)).astype(np.float32)
    for dtype, some in itertools.product((jnp.bfloat16, np.float16), (numbers, many)):
        half = some.astype(dtype)
        table, one_by_one = (
            round_to_fp8(x, np.float32(0.5)) for x in (half, half.astype(np.float32))
        )
        np.testing.assert_array_equal(table.view(np.uint8), one_by_one.view(np.uint8))


def test_the_blocks_matrices_are_most_of_the_model():
    table = model_table(step1x_edit_v1_1())
    numbers = [(np.prod(e.shape), is_fp8_weight(name, e.shape)) for name, e in table.items()]
    share = sum(n for n, eight in numbers if eight) / sum(n for n, _ in numbers)
    assert 0.95 < share < 0.96
    assert sum(eight for _, eight in numbers) == 304


@pytest.mark.parametrize("scaled", [False, True])
def test_a_model_is_loaded_from_it(tmp_path, base, scaled):
    """The dequantized tensors, the model that is loaded from them, and rows of a tensor."""
    seen = Fp8File(save(tmp_path / "weights.safetensors", base, scaled))
    (tmp_path / "config.json").write_text((BASE / "config.json").read_text())
    model = load_model(tmp_path)
    assert model.config.param_dtype == "bfloat16"
    read = published(model.config, nnx.state(model)).read
    for name in base.shapes:
        assert read(name).dtype == jnp.bfloat16
        np.testing.assert_array_equal(read(name), seen.read(name))
    rows = np.array([0, 1, 5])
    name = f"{LINEAR}.weight"
    np.testing.assert_array_equal(seen.read(name, rows), seen.read(name)[rows])


def rewritten(path, file, change):
    """Copies the file with tensors (name -> array) and metadata replaced."""
    tensors = {name: file.read(name) for name in file.shapes}
    metadata = dict(file.metadata)
    change(tensors, metadata)
    write_safetensors(path, InMemory(tensors, metadata))
    return SafetensorsFile(path)


def newer(tensors, metadata, how):
    """Converts `scaled_fp8` and `.scale_weight` to newer ComfyUI's tensors."""
    del tensors["scaled_fp8"]
    layers = {}
    for name in [name for name in tensors if name.endswith(".scale_weight")]:
        layer = name.removesuffix(".scale_weight")
        tensors[f"{layer}.weight_scale"] = tensors.pop(name)
        layers[layer] = {"format": "float8_e4m3fn"}
        if how == "tensors":
            text = json.dumps(layers[layer] | {"full_precision_matrix_mult": True})
            tensors[f"{layer}.comfy_quant"] = np.frombuffer(text.encode(), np.uint8)
            tensors[f"{layer}.input_scale"] = np.array(0.25, np.float32)
    if how == "header":
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})


@pytest.mark.parametrize("how", ["tensors", "header"])
def test_newer_names_are_read_alike(tmp_path, base, how):
    older = save(tmp_path / "older.safetensors", base, True)
    file = rewritten(tmp_path / "new.safetensors", older, lambda t, m: newer(t, m, how))
    one, other = Fp8File(older), Fp8File(file)
    assert number_format(file) == "scaled fp8"
    assert other.shapes == base.shapes
    assert not other.metadata
    for name in base.shapes:
        np.testing.assert_array_equal(one.read(name), other.read(name))


REFUSED = {
    "stray": (
        lambda t, m: t.update({"img_out.scale_weight": np.array(1, np.float32)}),
        "img_out.scale_weight belongs to no weight",
    ),
    "missing": (lambda t, m: t.pop(f"{LINEAR}.scale_weight"), f"{LINEAR}.weight has no scale"),
    "two": (
        lambda t, m: t.update({f"{LINEAR}.weight_scale": np.array(1, np.float32)}),
        f"{LINEAR}.weight has two scales",
    ),
    "per row": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.ones((3, 1), np.float32)}),
        rf"{LINEAR}.scale_weight has shape \[3, 1\]; only weights with one scale, or one for",
    ),
    "per block": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.ones((192, 2), np.float32)}),
        rf"{LINEAR}.scale_weight has shape \[192, 2\]",
    ),
    "one row's is zero": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.arange(192, dtype=np.float32)}),
        "scale_weight is 0.0, not a positive number",
    ),
    "infinite": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.array(np.inf, np.float32)}),
        "scale_weight has numbers that are not finite",
    ),
    "integers": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.array(3, np.uint8)}),
        "scale_weight is stored as uint8",
    ),
    "marker's JSON": (
        lambda t, m: t.update({f"{OTHER}.comfy_quant": np.frombuffer(b'[["a", 1]]', np.uint8)}),
        "comfy_quant is .*not a JSON object",
    ),
    "marker of numbers": (
        lambda t, m: t.update({f"{OTHER}.comfy_quant": np.ones(9, np.float32)}),
        "comfy_quant is not JSON",
    ),
    "header of a list": (
        lambda t, m: m.update({"_quantization_metadata": '{"layers": ["a"]}'}), "lists no layers",
    ),
    "header too deep": (
        lambda t, m: m.update({"_quantization_metadata": "[" * 100_000}), "nested too deeply",
    ),
    "zero": (
        lambda t, m: t.update({f"{LINEAR}.scale_weight": np.array(0, np.float32)}),
        "is 0.0, not a positive number",
    ),
    "of bfloat16": (
        lambda t, m: t.update({"img_in.scale_weight": np.array(2, np.float32)}),
        "img_in.scale_weight is 2.0, but img_in.weight is bfloat16",
    ),
    "other format": (
        lambda t, m: m.update({"_quantization_metadata": json.dumps(
            {"layers": {LINEAR: {"format": "nvfp4"}}})}),
        f"{LINEAR} is stored as 'nvfp4', which cannot be read",
    ),
    "other format beside it": (
        lambda t, m: t.update({f"{OTHER}.comfy_quant": np.frombuffer(
            b'{"format": "int8_tensorwise"}', np.uint8)}),
        f"{OTHER} is stored as 'int8_tensorwise'",
    ),
    "layer not 8-bit": (
        lambda t, m: m.update({"_quantization_metadata": json.dumps(
            {"layers": {"img_in": {"format": "float8_e4m3fn"}}})}),
        "img_in should be float8_e4m3fn, but its weight is bfloat16",
    ),
    "header": (
        lambda t, m: m.update({"_quantization_metadata": "{"}),
        "_quantization_metadata is not valid JSON",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_beside_a_weight_is_accounted_for(tmp_path, base, case):
    change, words = REFUSED[case]
    older = save(tmp_path / "older.safetensors", base, True)
    file = rewritten(tmp_path / "bad.safetensors", older, change)
    with pytest.raises(UserError, match=words) as error:
        Fp8File(file)
    assert "bad.safetensors" in str(error.value)


def test_a_scale_for_each_row(tmp_path, base):
    """Against float64: the stored number times its row's scale; float32 rounds once."""
    older = save(tmp_path / "older.safetensors", base, True)
    scales = np.random.default_rng(0).uniform(1e-3, 1e-2, 192).astype(np.float32)
    for i, shape in enumerate([(192,), (192, 1)]):
        beside = {f"{LINEAR}.scale_weight": scales.reshape(shape)}
        file = rewritten(tmp_path / f"{i}", older, lambda t, m, new=beside: t.update(new))
        want = decoded(file.read(f"{LINEAR}.weight")) * scales[:, None].astype(np.float64)
        seen = Fp8File(file, "float32")
        np.testing.assert_array_equal(seen.read(f"{LINEAR}.weight"), want.astype(np.float32))
        rows = np.array([3, 4, 190])
        np.testing.assert_array_equal(
            seen.read(f"{LINEAR}.weight", rows), want[rows].astype(np.float32)
        )
        half = Fp8File(file).read(f"{LINEAR}.weight")
        np.testing.assert_array_equal(half, want.astype(np.float32).astype(jnp.bfloat16))


def test_what_is_too_large_with_its_scale(tmp_path, base):
    older = save(tmp_path / "older.safetensors", base, True)
    large = {f"{LINEAR}.scale_weight": np.array(1e38, np.float32)}
    file = rewritten(tmp_path / "large.safetensors", older, lambda t, m: t.update(large))
    with pytest.raises(UserError, match=f"{LINEAR}.weight times its scale overflows"):
        Fp8File(file).read(f"{LINEAR}.weight")


def test_layers_are_listed_with_what_comes_before_all_names(tmp_path, base):
    older = save(tmp_path / "older.safetensors", base, True)
    file = rewritten(tmp_path / "new.safetensors", older, lambda t, m: newer(t, m, "header"))
    text = file.metadata["_quantization_metadata"]
    for prefix in ("model.diffusion_model.", "diffusion_model."):
        layers = {prefix + name: x for name, x in json.loads(text)["layers"].items()}
        tensors = {prefix + name: file.read(name) for name in file.shapes}
        path = tmp_path / f"{prefix}safetensors"
        metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
        write_safetensors(path, InMemory(tensors, metadata))
        seen = dequantize(open_file(path))
        assert seen.shapes == base.shapes
        name = f"{LINEAR}.weight"
        np.testing.assert_array_equal(seen.read(name), Fp8File(older).read(name))


def test_ones_beside_wider_weights_are_harmless(tmp_path, base):
    file = save(tmp_path / "older.safetensors", base, True)
    one = {"img_in.scale_weight": np.array(1, np.float32)}
    file = rewritten(tmp_path / "ones.safetensors", file, lambda t, m: t.update(one))
    seen = Fp8File(file)
    assert "img_in.scale_weight" not in seen.shapes
    np.testing.assert_array_equal(seen.read("img_in.weight"), file.read("img_in.weight"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 512])
def test_numbers_that_have_no_place_are_refused(tmp_path, base, value):
    name = f"{LINEAR}.weight"

    def read():
        tensor = base.read(name).astype(jnp.bfloat16)
        tensor[3, 4] = value
        return tensor

    bad = Override(base, {name: (base.shapes[name], np.dtype(jnp.bfloat16), read)})
    path = tmp_path / "eight.safetensors"
    words = "write the scaled format" if value == 512 else "not finite"
    with pytest.raises(UserError, match=f"{LINEAR}.weight .*{words}"):
        save_reader(path, bad, False)
    assert not list(tmp_path.iterdir())
    if value == 512:
        save_reader(path, bad, True)


def test_zeros_have_a_scale(tmp_path):
    name = f"{LINEAR}.weight"
    save_file({name: np.zeros((6, 2), np.float32)}, tmp_path / "wide.safetensors")
    zeros = save_reader(tmp_path / "zeros", SafetensorsFile(tmp_path / "wide.safetensors"), True)
    assert not Fp8File(zeros).read(name).any()


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_torch_reads_the_same_numbers(tmp_path, base, dtype):
    """torch's float8, as ComfyUI uses it: products in float32, and rounding."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from safetensors.torch import load_file

    save(tmp_path / "scaled.safetensors", base, True)
    save(tmp_path / "plain.safetensors", base, False)
    tensors = load_file(tmp_path / "scaled.safetensors")
    seen = Fp8File(SafetensorsFile(tmp_path / "scaled.safetensors"), dtype)
    plain = load_file(tmp_path / "plain.safetensors")
    for name in base.shapes:
        if tensors[name].dtype != torch.float8_e4m3fn:
            continue
        scale = tensors[name.removesuffix("weight") + "scale_weight"]
        want = (tensors[name].float() * scale).to(getattr(torch, dtype))
        got = torch.from_numpy(seen.read(name).astype(np.float32))
        assert torch.equal(got, want.float())
        original = torch.from_numpy(base.read(name).copy())
        assert torch.equal(
            (original / scale).to(tensors[name].dtype).float(), tensors[name].float()
        )
        assert torch.equal(original.to(plain[name].dtype).float(), plain[name].float())


@pytest.mark.torch
def test_plain_files_that_torch_wrote(tmp_path, base):
    """All tensors are cast, or all but norms and biases; also e5m2."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from safetensors.torch import save_file as save_torch

    for eight in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensors = {
            name: torch.from_numpy(base.read(name).copy()).to(
                eight if len(shape) == 2 or eight == torch.float8_e5m2 else torch.bfloat16
            )
            for name, shape in base.shapes.items()
        }
        save_torch(tensors, tmp_path / "plain.safetensors")
        seen = Fp8File(SafetensorsFile(tmp_path / "plain.safetensors"), "float32")
        assert number_format(seen.file) == "fp8"
        for name, x in tensors.items():
            np.testing.assert_array_equal(seen.read(name), x.float().numpy())


def test_files_of_numpy_without_eight_bits_pass_through(tmp_path):
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "wide.safetensors")
    file = SafetensorsFile(tmp_path / "wide.safetensors")
    assert dequantize(file) is file
