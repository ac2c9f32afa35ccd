"""Runs that train only adapters, on random weights of the real model in its tiny preset."""

import contextlib
import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.json_files import as_json
from step1x_jax.models import step1x_edit
from step1x_jax.models.config import LoraConfig
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training import loop
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.config import HeldOutConfig
from step1x_jax.training.loop import train
from step1x_jax.training.monitoring.held_out import HeldOutEvaluator
from step1x_jax.training.monitoring.metrics import read_metrics
from step1x_jax.training.starting import load_first_adapters
from step1x_jax.training.step.loss import rectified_flow_loss
from step1x_jax.training.step.train_step import abstract_state, init_state, make_train_step
from step1x_jax.training.trainable_split import abstract_frozen, abstract_split, make_freezer
from step1x_jax.weights.filling import fill_params, map_params
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import Adapters, abstract_adapters
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.lora.writers import save_kohya
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.description import read_description
from step1x_jax.weights.run.reader import RunFolder
from step1x_jax.weights.run.writer import write_adapters_folder
from tests.training.tiny import Toy, batches, count_step, make_batch, tiny_config
from tests.weights.models import load_as, published, run_parameters, save_model

STEPS = 3


def random_weights(config, seed=0):
    """Make weights without zeros: initially the gates and the last layer output zero."""
    rng = np.random.default_rng(seed)
    graph, abstract = abstract_model(config)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 5, x.dtype), abstract)
    return nnx.merge(graph, state)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compile equal configs only once, since the real model compiles slowly."""
    made = {}

    def make(config, mesh, abstract):
        key = json.dumps(as_json(config))
        if key not in made:
            made[key] = make_train_step(config, mesh, abstract)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_train_step", make)
        yield


@pytest.fixture
def no_learning(monkeypatch):
    """Steps are counted but do not change the parameters."""

    def step(state, batch, frozen):
        values = dict.fromkeys(("loss", "grad_norm", "learning_rate", "param_norm"), 1.0)
        return dataclasses.replace(state, step=count_step(state.step)), values

    monkeypatch.setattr(loop, "make_train_step", lambda *_: step)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A weight file."""
    path = tmp_path_factory.mktemp("base") / "weights.safetensors"
    save_model(path, random_weights(tiny_config().model))
    return path


def lora_config(base, **lora):
    return override(
        tiny_config(steps=STEPS),
        {
            "lora": LoraConfig(**{"rank": 3, "alpha": 6.0} | lora),
            "training.start_from": str(base),
            "mesh": MeshConfig(data=1, fsdp=8),
        },
    )


def state_model(base):
    return lora_config(base).model


def parts_of(config, seed=1):
    """Return graph, random adapters (including the up halves) and base on one device."""
    parts = abstract_split(config)
    rng = np.random.default_rng(seed)
    adapters = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) / 5, x.dtype), parts.trained
    )
    return parts.graph, adapters, nnx.state(load_as(config.training.start_from, config.model))


def adapters_of(run, **options):
    """Read the adapters of a run."""
    opened = RunFolder(run, **options)
    return opened.restore(abstract_adapters(opened.model, opened.lora))


def merged_into(base, adapters, config):
    """Merge adapters into the base in the published layout."""
    lora = Adapters(adapters, config.model, config.lora)
    tensors = Merged(published(config.model, base), [(lora, 1.0)])
    return fill_params(abstract_model(config.model)[1], model_table(config.model), tensors)


def arguments():
    batch = make_batch(0)
    t = jnp.linspace(0.1, 0.9, len(batch["target"]))
    return batch["target"], batch["source"], batch["text"], batch["text_lengths"], t


def rows_of(state):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


@pytest.fixture(scope="module")
def whole_run(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora")
    return workdir, train(lora_config(base), workdir, batches)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_at_first_the_model_is_its_base(base, dtype):
    config = override(lora_config(base), {"model.dtype": dtype, "model.param_dtype": dtype})
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    adapters = init_state(config, abstract_state(config, mesh)).params
    downs = [x for name, x in rows_of(adapters).items() if "adapter.down" in name]
    assert all(np.abs(x).max() > 0 for x in downs)
    graph, _, frozen = parts_of(config)
    adapted = jax.jit(lambda *x: nnx.merge(graph, adapters, frozen)(*x))(*arguments())
    plain = jax.jit(lambda *x: nnx.merge(abstract_model(config.model)[0], frozen)(*x))
    assert np.abs(adapted).max() > 0.1
    # in bfloat16 bit for bit; in float32 XLA may fuse the sums of the two programs otherwise
    tolerance = 1e-5 if dtype == "float32" else 0
    np.testing.assert_allclose(adapted, plain(*arguments()), rtol=0, atol=tolerance)


@pytest.mark.slow
def test_gradients_are_those_of_the_full_weights_by_the_chain_rule(base):
    """W = W0 + s down up: each half's gradient follows from that of W in the plain model."""
    config = lora_config(base)
    graph, adapters, frozen = parts_of(config)
    merged = merged_into(frozen, adapters, config)

    def loss(graph, *state):
        target, *rest = arguments()
        return rectified_flow_loss(nnx.merge(graph, *state)(target, *rest), target, 0 * target)

    value, ours = jax.jit(jax.value_and_grad(lambda a: loss(graph, a, frozen)))(adapters)
    plain_graph = abstract_model(config.model)[0]
    plain_value, full = jax.jit(jax.value_and_grad(lambda p: loss(plain_graph, p)))(merged)
    assert float(value) == pytest.approx(float(plain_value), rel=1e-5)

    scale = config.lora.alpha / config.lora.rank
    blocks, gradient, given = (x["transformer"]["single_blocks"] for x in (full, ours, adapters))
    attn, given_attn = gradient["attn"], given["attn"]
    v = lambda x: np.float64(x.get_value())  # noqa: E731
    q, k, values = (v(blocks["attn"][name]["kernel"]) for name in "qkv")
    mlp_in = v(blocks["mlp_in"]["kernel"])
    proj, mlp_out = v(blocks["attn"]["proj"]["kernel"]), v(blocks["mlp_out"]["kernel"])
    half = lambda module, name: v(module["adapter"][name])  # noqa: E731
    of_linear1 = [  # our layers of linear1: kernel, up, gradients of the up
        (kernel, half(layer, "up"), found["adapter"]["up"])
        for kernel, layer, found in (
            (q, given_attn["q"], attn["q"]),
            (k, given_attn["k"], attn["k"]),
            (values, given_attn["v"], attn["v"]),
            (mlp_in, given["mlp_in"], gradient["mlp_in"]),
        )
    ]
    down = half(given_attn["k"], "down")
    proj_down, mlp_out_down = half(given_attn["proj"], "down"), half(given["mlp_out"], "down")
    up = half(given_attn["proj"], "up")
    for found, wanted in (
        # linear1 has one down for all of its parts, linear2 one up
        (
            attn["k"]["adapter"]["down"],
            sum(np.einsum("ndf,nrf->ndr", kernel, up) for kernel, up, _ in of_linear1),
        ),
        *((found, np.einsum("ndf,ndr->nrf", kernel, down)) for kernel, _, found in of_linear1),
        (
            attn["proj"]["adapter"]["up"],
            np.einsum("ned,ner->nrd", proj, proj_down)
            + np.einsum("nfd,nfr->nrd", mlp_out, mlp_out_down),
        ),
        (attn["proj"]["adapter"]["down"], np.einsum("ned,nrd->ner", proj, up)),
        (gradient["mlp_out"]["adapter"]["down"], np.einsum("nfd,nrd->nfr", mlp_out, up)),
    ):  # float32 through the whole model, twice
        wanted = scale * wanted
        np.testing.assert_allclose(v(found), wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_no_gradient_of_the_base_is_computed(base):
    """It would be a dot of the kernel's shape. The whole program is searched for one."""

    def shapes(config):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        step = make_train_step(config, mesh, abstract_state(config, mesh))
        frozen = abstract_frozen(config, mesh)
        jaxpr = step.trace(abstract_state(config, mesh), make_batch(0), frozen).jaxpr
        found = set()

        def walk(jaxpr):
            for eqn in jaxpr.eqns:
                if eqn.primitive.name == "dot_general":
                    found.add(tuple(sorted(eqn.outvars[0].aval.shape)))
                for value in jax.tree.leaves(list(eqn.params.values())):
                    inner = getattr(value, "jaxpr", value)
                    if hasattr(inner, "eqns"):
                        walk(inner)

        walk(jaxpr.jaxpr)
        return found

    config = lora_config(base)
    kernel, adapter = (32, 128), (3, 32)  # mlp_in and its down half
    assert adapter in shapes(config)
    assert kernel not in shapes(config)
    config = override(config, {"lora": LoraConfig()})
    assert kernel in shapes(config)  # as with all parameters trained


@pytest.mark.slow
def test_held_out_edits_are_evaluated_with_the_average_of_the_adapters(
    base, tmp_path, monkeypatch, capsys
):
    """Compare with the loss of full weights into which the average is merged."""
    config = override(
        lora_config(base),
        {
            "training.steps": 1,
            "held_out": HeldOutConfig(path="x", every=1, batches=1, times=(0.5,)),
        },
    )
    mesh = make_mesh(config.mesh)
    _, average, weights = parts_of(config)

    def step(state, batch, frozen):  # the adapters' product is still zero
        values = dict.fromkeys(("loss", "grad_norm", "learning_rate", "param_norm"), 1.0)
        return dataclasses.replace(state, step=count_step(state.step), ema=average), values

    monkeypatch.setattr(loop, "make_train_step", lambda *_: step)
    train(config, tmp_path, batches, lambda dropped: batches(100))
    assert "the moving average of the adapters (optimizer.ema_decay 0.5)" in capsys.readouterr().out
    (row,) = read_metrics(tmp_path)
    assert row["held_out_ema_decay"] == 0.5

    full = dataclasses.replace(config, lora=LoraConfig())
    evaluation = HeldOutEvaluator(full, mesh, lambda dropped: batches(100), tmp_path)
    with jax.set_mesh(mesh):
        alone = evaluation.compute_losses(weights, nnx.State({}))
    merged = jax.device_get(merged_into(weights, average, config))
    with jax.set_mesh(mesh):
        found = evaluation.compute_losses(merged, nnx.State({}))
    # float32 sums in another order: 1e-6 is usual
    assert row["held_out_loss"] == pytest.approx(found["held_out_loss"], rel=1e-5)
    assert row["held_out_loss"] != pytest.approx(alone["held_out_loss"], rel=1e-3)


@pytest.mark.slow
def test_checkpoints_hold_adapters_and_nothing_else(base, whole_run):
    workdir, state = whole_run
    names = set(rows_of(state.params))
    # halves: of a stream of a double block 4 for q, k and v (one down) and 2 for each of 4 others;
    # of a single block 2 for its modulation, 5 for linear1 (one down), 3 for linear2 (one up)
    assert len(names) == 2 * (4 + 2 * 4) + 2 + 5 + 3
    assert all("'adapter'" in name for name in names)
    about = read_description(workdir / "checkpoints" / "3")
    saved = about.arrays
    assert {name for item in saved.values() for name in item if "kernel" in name} == set()
    assert len(saved["params"]) == len(names) == len(saved["ema"])
    assert len(about.base) == len(jax.tree.leaves(abstract_model(state_model(base))[1]))
    moments = state.opt_state[1][0]
    assert set(rows_of(moments.mu)) == set(rows_of(moments.nu)) == names
    restored = adapters_of(workdir)
    assert_same(restored, state.params)


@pytest.mark.slow
def test_resuming_is_bit_for_bit(base, whole_run, tmp_path):
    def interrupted(first_step):
        for number, batch in enumerate(batches(first_step), first_step):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    assert int(train(lora_config(base), tmp_path, interrupted).step) == 2
    assert_same(train(lora_config(base), tmp_path, batches), whole_run[1])


@pytest.mark.slow
def test_the_base_is_not_touched(base):
    """Adapters change; the frozen part's buffers stay valid and unchanged."""
    config = lora_config(base)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = abstract_state(config, mesh)
    frozen = parts_of(config)[2]
    before = jax.device_get(frozen)
    state = init_state(config, abstract)
    first = jax.device_get(state.params)
    train_step = make_train_step(config, mesh, abstract)
    for number in range(2):  # the second step reuses the base's buffers
        state, metrics = train_step(state, make_batch(number), frozen)
    assert_same(frozen, before)
    assert float(metrics["grad_norm"]) > 0
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.params, first)),
                                                 strict=True)]  # fmt: skip
    assert min(moved) > 1e-4


@pytest.mark.slow
def test_another_base_is_refused(base, whole_run, tmp_path):
    other = tmp_path / "other" / "weights.safetensors"
    save_model(other, random_weights(tiny_config().model, seed=9))
    config = override(lora_config(other), {"training.steps": STEPS + 1})
    with pytest.raises(UserError, match=r"were trained on other weights: .* differs"):
        train(config, whole_run[0], batches)
    tensors = open_weights(whole_run[0], base=other).tensors
    with pytest.raises(UserError, match=r"were trained on other weights: .* differs; give those"):
        tensors.read("img_in.weight")
    # Another path of the same base is accepted.
    moved = tmp_path / "moved" / "weights.safetensors"
    save_model(moved, load_model(base))
    again, _ = run_parameters(whole_run[0], base=moved)
    assert_same(again, run_parameters(whole_run[0])[0])


@pytest.mark.slow
def test_sums_are_rounded_once_to_the_dtype_that_is_wanted(tmp_path):
    """A bfloat16 base gives the same float32 weights as a float32 file with equal values."""
    base = tmp_path / "base" / "weights.safetensors"
    numbers = random_weights(tiny_config().model)
    given = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), nnx.state(numbers))
    nnx.update(numbers, given)
    save_model(base, numbers)
    config = override(lora_config(base), {"model.param_dtype": "bfloat16"})
    mesh, rng = make_mesh(config.mesh), np.random.default_rng(1)
    abstract = abstract_state(config, mesh)
    adapters = jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype) / 5, x.sharding),
        abstract.params,
    )
    save_kohya(tmp_path / "lora.safetensors", Adapters(adapters, config.model, config.lora))
    with contextlib.closing(Checkpoints(tmp_path / "run", keep=1)) as checkpoints:
        checkpoints.save(init_state(config, abstract, adapters), config)
    in_float32 = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), abstract_model(config.model)[1]
    )
    ours, _ = run_parameters(tmp_path / "run", in_float32)
    wanted = nnx.state(load_model(open_weights(base, loras=[(tmp_path / "lora.safetensors", 1.0)])))
    for x, y in zip(*map(jax.tree.leaves, (ours, wanted)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)  # bfloat16 would be 1e-3 off


def test_a_run_gives_full_weights_as_the_kohya_reader_merges_them(base, whole_run, tmp_path):
    """Compare merging in our layout with merging a LoRA file in the published layout."""
    config = lora_config(base)
    adapters = adapters_of(whole_run[0])
    save_kohya(tmp_path / "lora.safetensors", Adapters(adapters, config.model, config.lora))
    wanted = nnx.state(load_model(open_weights(base, loras=[(tmp_path / "lora.safetensors", 1.0)])))
    ours, weights = run_parameters(whole_run[0])
    assert RunFolder(whole_run[0]).lora == config.lora
    given = nnx.state(load_model(base))
    moved = 0
    for x, y, z in zip(*map(jax.tree.leaves, (ours, wanted, given)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)  # float32 sums in another order
        moved += np.abs(x - z).max() > 1e-3
    assert moved == 21  # kernels: 7 of a stream of a double block, 7 of a single one
    read = published(config.model, wanted).read
    for name in model_table(config.model):
        np.testing.assert_array_equal(weights.tensors.read(name), read(name))


@pytest.mark.slow
@pytest.mark.usefixtures("no_learning")
@pytest.mark.parametrize("form", ["kohya", "run", "folder"])
def test_where_adapters_may_start(base, whole_run, tmp_path, form):
    """A LoRA file, a run, and a folder that launch.convert makes from a LoRA."""
    config = lora_config(base)
    source = {"run": whole_run[0], "kohya": tmp_path / "lora.safetensors"}.get(form, tmp_path / "x")
    if form == "kohya":
        save_kohya(source, Adapters(whole_run[1].params, config.model, config.lora))
    if form == "folder":
        write_adapters_folder(source, whole_run[1].params, config.model, config.lora)
    config = override(config, {"lora.start_from": str(source), "training.steps": 1})
    state = train(config, tmp_path / "run", batches)
    assert_same(state.params, whole_run[1].params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 7.0}, r"have alpha .*, the config 7; set lora\.alpha"),
        ({"rank": 5}, r"have rank .*, the config 5; set lora\.rank"),
        ({"targets": ("single_blocks.*",)}, "is of another model: its"),
    ],
)
def test_adapters_of_other_settings_are_no_start(base, whole_run, change, words):
    config = override(
        lora_config(base),
        {"lora.start_from": str(whole_run[0])} | {f"lora.{n}": x for n, x in change.items()},
    )
    abstract = abstract_split(config).trained
    with pytest.raises(UserError, match=words):
        load_first_adapters(config, abstract, print)


def test_adapters_without_a_base_take_the_one_that_is_given(base, whole_run, tmp_path):
    config = lora_config(base)
    write_adapters_folder(tmp_path / "x", whole_run[1].params, config.model, config.lora)
    with pytest.raises(UserError, match=r"give them as --base to launch"):
        open_weights(tmp_path / "x")
    assert_same(run_parameters(tmp_path / "x", base=base)[0], run_parameters(whole_run[0])[0])


@pytest.mark.slow
@pytest.mark.usefixtures("no_learning")
def test_a_run_of_all_parameters_starts_from_a_run_of_adapters(base, whole_run, tmp_path):
    config = override(tiny_config(steps=1), {"training.start_from": str(whole_run[0])})
    state = train(config, tmp_path, batches)
    assert_same(state.params, run_parameters(whole_run[0])[0])


@pytest.mark.slow
@pytest.mark.usefixtures("no_learning")
def test_a_bfloat16_base_comes_from_a_float32_run(base, tmp_path):
    full = override(tiny_config(steps=1), {"training.start_from": str(base)})
    params = train(full, tmp_path / "full", batches).params
    config = override(
        lora_config(tmp_path / "full"), {"model.param_dtype": "bfloat16", "training.steps": 1}
    )
    train(config, tmp_path / "lora", batches)
    merged, weights = run_parameters(tmp_path / "lora")
    norm = merged["connector"]["blocks"]["norm1"]["scale"].get_value()
    wanted = params["connector"]["blocks"]["norm1"]["scale"].get_value().astype(jnp.bfloat16)
    assert norm.dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm, wanted)
    assert {dtype.name for dtype in weights.tensors.dtypes.values()} == {"bfloat16"}
    norm = weights.tensors.read("connector.S.individual_token_refiner.blocks.0.norm1.weight")
    np.testing.assert_array_equal(norm, wanted[0])


def test_on_eight_devices_all_is_split_as_the_kernels_are(base, monkeypatch):
    config = override(lora_config(base, rank=8), {"mesh": MeshConfig(fsdp=8)})
    mesh = make_mesh(config.mesh)
    state, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    blocks = state.params["transformer"]["single_blocks"]
    spec = {
        "qkv down": blocks["attn"]["k"]["adapter"]["down"].get_value().sharding.spec,
        "q up": blocks["attn"]["q"]["adapter"]["up"].get_value().sharding.spec,
        "proj up": blocks["attn"]["proj"]["adapter"]["up"].get_value().sharding.spec,
    }
    assert spec == {
        "qkv down": jax.P(None, "fsdp", None),
        "q up": jax.P(None, "fsdp", None),  # sharded by rank
        "proj up": jax.P(None, None, "fsdp"),
    }
    kernel = frozen["transformer"]["single_blocks"]["mlp_in"]["kernel"].get_value()
    assert kernel.sharding.spec == jax.P(None, "fsdp", None)
    places = [x.sharding for x in jax.tree.leaves(state.params)]
    moments = state.opt_state[1][0]
    for tree in (moments.mu, moments.nu, state.ema):
        assert [x.sharding for x in jax.tree.leaves(tree)] == places


@pytest.mark.usefixtures("no_learning")
@pytest.mark.parametrize("stored", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_a_base_in_8_bits(base, stored, tmp_path):
    """Each kernel differs by at most half a quantization step (fp8: by 2^-4 of its value)."""
    config = lora_config(base, quantize=stored)
    graph, _, given = parts_of(config)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    exact = jax.device_get(given)
    frozen = map_params(given, make_freezer(config, mesh))
    assert jax.tree.structure(frozen) == jax.tree.structure(abstract_frozen(config, mesh))

    q = frozen["transformer"]["single_blocks"]["attn"]["q"]
    kernel, scale = q["kernel"].get_value(), q["kernel_scale"].get_value()
    wanted = exact["transformer"]["single_blocks"]["attn"]["q"]["kernel"].get_value()
    assert (kernel.dtype.itemsize, scale.shape) == (1, (2, 32))
    assert kernel.shape == wanted.shape
    found = np.float32(kernel) * np.asarray(scale)[:, None]
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    step = largest / 127 / 2 if stored == "int8" else np.abs(wanted) / 16 + largest / 448 / 512
    assert (np.abs(found - wanted) <= step * 1.001).all()

    # The model's output equals that of the plain model with dequantized kernels.
    by_hand = nnx.to_flat_state(exact)
    flat = dict(nnx.to_flat_state(frozen))
    plain = {}
    for path, leaf in by_hand:
        value = leaf.get_value()
        if (*path[:-1], "kernel_scale") in flat and path[-1] == "kernel":
            s = np.asarray(flat[*path[:-1], "kernel_scale"].get_value())
            value = np.float32(flat[path].get_value()) * s[..., None, :]
        plain[path] = leaf.replace(jnp.asarray(value))
    plain = nnx.from_flat_state(plain)
    trained = init_state(config, abstract_state(config, mesh)).params
    ours = jax.jit(lambda *x: nnx.merge(graph, trained, frozen)(*x))(*arguments())
    wanted = nnx.merge(abstract_model(config.model)[0], plain)(*arguments())
    np.testing.assert_allclose(ours, wanted, atol=2e-5 * np.abs(wanted).max())

    # A run's adapters are merged into the original weights.
    config = override(config, {"training.steps": 1})
    train(config, tmp_path, batches)
    merged, _ = run_parameters(tmp_path)
    scale = merged["connector"]["blocks"]["norm1"]["scale"].get_value()
    np.testing.assert_array_equal(scale, exact["connector"]["blocks"]["norm1"]["scale"].get_value())
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("float32")}


def test_no_base_is_a_mistake():
    config = override(tiny_config(), {"lora.rank": 4})
    with pytest.raises(UserError, match=r"training\.start_from is ''; adapters need base weights"):
        config.validate()


def test_a_run_of_all_parameters_has_no_adapters(tmp_path, monkeypatch):
    monkeypatch.setattr(step1x_edit, "Step1XEdit", Toy)  # for this test alone
    train(tiny_config(steps=1), tmp_path, batches)
    with pytest.raises(UserError, match="so it has no adapters"):
        RunFolder(tmp_path).adapters()


@pytest.mark.slow
def test_a_bfloat16_gradient_of_float32_parameters(base):
    """Kernels are rounded before the model instead of in it, so the loss is bitwise the same. The
    gradient may be rounded to 8 bits (on CPUs the matmuls do that anyway)."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        config = override(
            tiny_config(),
            {
                "model.dtype": "bfloat16",
                "optimizer.gradient_dtype": dtype,
                "optimizer.clip_norm": 0.0,
            },
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        abstract = abstract_state(config, mesh)
        state = init_state(config, abstract, nnx.state(load_as(base, config.model)))
        step = make_train_step(config, mesh, abstract)
        state, metrics = step(state, make_batch(0), nnx.State({}))
        found[dtype] = metrics["loss"], state.opt_state[1][0].mu
    assert found["float32"][0] == found["bfloat16"][0]
    for x, y in zip(*(jax.tree.leaves(found[dtype][1]) for dtype in found), strict=True):
        np.testing.assert_allclose(y, x, rtol=2**-7, atol=2**-8 * np.abs(x).max())
