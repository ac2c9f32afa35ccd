import json
import os

import pytest

from step1x_jax.data.manifest import write_dataset
from step1x_jax.errors import UserError
from step1x_jax.files import fingerprint
from step1x_jax.json_files import as_json
from step1x_jax.overrides import override
from step1x_jax.training.config import (
    TrainConfig,
    _flat_fields,
    check_records,
    check_same_run,
    expand_paths,
)
from step1x_jax.training.config_file import from_json, save_config
from tests.data.examples import make_record
from tests.training.tiny import load_config, tiny_config


def test_the_defaults_can_be_trained():
    TrainConfig().validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.version", "v2"),
        ("model.param_dtype", "float16"),
        ("lora.rank", -1),
        ("lora.alpha", 0.0),
        ("lora.targets", ()),
        ("lora.quantize", "int8"),  # without adapters
        ("lora.start_from", "lora.safetensors"),
        ("optimizer.name", "sgd"),
        ("optimizer.moment_dtype", "float16"),
        ("optimizer.gradient_dtype", "bfloat16"),  # computed in float32
        ("training.accumulate", 0),
        ("data.batch_size", 0),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.b2", 1.0),
        ("optimizer.schedule", "cosine"),
        ("optimizer.flat_fraction", 1.5),
        ("optimizer.ema_decay", 1.0),
        ("timesteps.distribution", "normal"),
        ("timesteps.shift", 0.0),
        ("training.steps", 0),
        ("training.log_every", 0),
        ("checkpoint.every", 0),
        ("checkpoint.keep", -1),
        ("mesh.fsdp", 0),
        ("mesh.tensor", -2),
        ("data.batch_size", 10**12),
        ("data.threads", 10**6),
        ("training.steps", 2**31),
        ("training.steps", 10**30),
        ("checkpoint.keep", 10**30),
        ("held_out.batches", 10**12),
        ("held_out.times", (0.0,)),
        ("timesteps.mean", 1e300),
        ("timesteps.shift", 1e-300),  # 0 in float32
        ("optimizer.learning_rate", 1e-300),
    ],
)
def test_impossible_values_are_named(field, value):
    config = override(tiny_config(), {field: value})
    with pytest.raises(UserError, match=rf"^(the config: )?{field} is "):
        config.validate()


def test_json_round_trip(tmp_path):
    config = override(tiny_config(), {"timesteps.shift": 3.0})
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text()) == as_json(config)


def test_whole_numbers_are_floats_where_floats_are_due():
    values = as_json(tiny_config())
    values["optimizer"]["learning_rate"] = 1
    rate = from_json(values, "test").optimizer.learning_rate
    assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("optimizer", "momentum", 0.9, r"unknown field optimizer\.momentum"),
        ("training", "steps", "many", r"training\.steps is 'many'; expected int"),
        ("model", "axes_dim", [4, "x", 6], r"model\.axes_dim\[1\] is 'x'; expected int"),
    ],
)
def test_wrong_files_are_explained(section, key, value, message):
    values = as_json(tiny_config())
    values[section][key] = value
    with pytest.raises(UserError, match=message):
        from_json(values, "run/config.json")


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_files_that_are_no_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_config(tmp_path / "config.json")


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "config.json")


def test_missing_fields_take_their_defaults():
    assert from_json({}, "test") == TrainConfig()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.steps", 99),
        ("training.log_every", 7),
        ("checkpoint.keep", 9),
        ("mesh.data", 1),
        ("sampling.guidance", 1.0),
        ("model.remat", "full"),
        ("model.attention", "xla"),
    ],
)
def test_what_may_change_on_resume(field, value):
    config = override(tiny_config(), {field: value})
    check_same_run(config, tiny_config(), "run")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.hidden_size", 64),
        ("data.path", "elsewhere"),
        ("data.batch_size", 16),
        ("optimizer.learning_rate", 1e-4),
        ("timesteps.shift", 2.0),
        ("training.seed", 1),
        ("training.start_from", "elsewhere"),
    ],
)
def test_what_may_not(field, value):
    config = override(tiny_config(), {field: value})
    with pytest.raises(UserError, match=rf"^{field} is .* but the run in run has"):
        check_same_run(config, tiny_config(), "run")


def test_a_run_knows_its_records_wherever_they_are():
    config = override(tiny_config(), {"data.path": "moved"})
    check_same_run(config, tiny_config(), "run", ["a", "b"], ["a", "b"])
    for now, before in ((None, ["a"]), (["a"], None)):  # runs of older versions and notebooks
        with pytest.raises(UserError, match=r"^data\.path is 'moved'"):
            check_same_run(config, tiny_config(), "run", now, before)
    for changed in (["a", "c"], ["b", "a"], ["a"]):
        with pytest.raises(UserError, match="the records in moved are not those that the run in"):
            check_same_run(config, tiny_config(), "run", changed, ["a", "b"])


@pytest.mark.parametrize(
    ("field", "before", "now"),
    [
        ("data.path", "records", "records/"),
        ("data.path", "a, b", "./a,b/"),
        ("training.start_from", "weights.safetensors", "{here}/weights.safetensors"),
        ("training.start_from", "gs://bucket/run", "gs://bucket/run/"),
        ("lora.start_from", "a/../lora", "lora"),
    ],
)
def test_places_are_compared_and_not_their_names(field, before, now):
    saved = override(tiny_config(), {field: before})
    config = override(tiny_config(), {field: now.format(here=os.getcwd())})
    check_same_run(config, saved, "run")
    config = override(config, {field: ""})
    with pytest.raises(UserError, match=rf"^{field} is ''"):
        check_same_run(config, saved, "run")


def test_home_in_all_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    fields = (
        "held_out.path",
        "training.start_from",
        "lora.start_from",
        "autoencoder",
        "encoder.path",
    )
    paths = dict.fromkeys(fields, "~/x") | {"data.path": "~/a, ~/b,gs://c"}
    config = expand_paths(override(tiny_config(), paths))
    values = dict(_flat_fields(config))
    assert [values[field] for field in fields] == ["/home/me/x"] * 5
    assert config.data.path == "/home/me/a,/home/me/b,gs://c"
    config = override(config, {"data.path": "caf\udce9"})
    with pytest.raises(UserError, match="UTF-8"):
        expand_paths(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_number_has_to_be_finite(value):
    defaults = TrainConfig()
    fields = [name for name, x in _flat_fields(defaults) if isinstance(x, float)]
    fields += ["sampling.shift", "sampling.truncate", "timesteps.shift"]  # None
    assert len(fields) > 15
    for field in fields:
        config = override(TrainConfig(), {field: value})
        with pytest.raises(UserError, match=field.split(".")[-1]):
            config.validate()
    for field in ("held_out.times", "data.weights"):
        config = override(TrainConfig(), {field: (0.5, value)})
        with pytest.raises(UserError, match=field):
            config.validate()


def test_a_field_that_does_not_exist_is_no_setting():
    with pytest.raises(UserError, match=r"optimizer\.learnin_rate; did you mean learning_rate\?"):
        override(tiny_config(), {"optimizer.learnin_rate": 1.0})


def test_types_are_checked_before_values():
    config = override(tiny_config(), {"data.batch_size": "3"})
    with pytest.raises(UserError, match=r"data\.batch_size is '3'; expected int"):
        config.validate()


def test_records_that_were_made_otherwise_are_refused(tmp_path):
    config = tiny_config()
    autoencoder = tmp_path / "vae.safetensors"
    autoencoder.write_bytes(b"one")
    config = override(
        config, {"data.path": str(tmp_path / "records"), "autoencoder": str(autoencoder)}
    )
    settings = {"min_pixels": config.encoder.min_pixels, "autoencoder": fingerprint(autoencoder)}
    write_dataset(tmp_path / "records", [make_record(0)], settings)
    check_records(config)
    autoencoder.write_bytes(b"two")
    with pytest.raises(UserError, match=r"another autoencoder than .*vae\.safetensors"):
        check_records(config)
    # Held-out records are also checked.
    autoencoder.write_bytes(b"one")
    other = settings | {"min_pixels": 7}
    write_dataset(tmp_path / "held_out", [make_record(0)], other)
    config = override(config, {"held_out.path": str(tmp_path / "held_out")})
    with pytest.raises(UserError, match=r"held_out were made with encoder\.min_pixels=7"):
        check_records(config)
    config = override(config, {"held_out.path": ""})
    check_records(config)
    config = override(config, {"encoder.min_pixels": config.encoder.min_pixels + 1})
    with pytest.raises(UserError, match=rf"--config.encoder.min_pixels={settings['min_pixels']}"):
        check_records(config)
