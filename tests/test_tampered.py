"""Every JSON text that a stranger can hand us: read, or refused in one sentence; nothing else.

In each, every value is replaced by values of other types and sizes, and every field left out
(tests/tampered.py).
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import step1x_jax
from step1x_jax.conditioning.processor import Processor
from step1x_jax.data.manifest import MANIFEST, write_dataset
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.data.records import decode_record, encode_record
from step1x_jax.data.sources import read_triplets
from step1x_jax.editing import loading
from step1x_jax.errors import UserError
from step1x_jax.training.config_file import save_config
from step1x_jax.weights.config_json import model_from_json
from step1x_jax.weights.files.opening import open_file
from step1x_jax.weights.language_model import read_mllm_config
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.save import write_diffusers
from tests.data.examples import make_record
from tests.tampered import tampered
from tests.training.tiny import load_config, tiny_config

QUICKSTART = Path(step1x_jax.__file__).parent / "assets" / "quickstart"
SECONDS = 10  # far more than any of them takes; a hang or an allocation takes longer
LONGEST = 1500  # characters of a sentence


def try_all(values, read, least=0.25):
    """Reads every changed text; `least` is the part of them that must be refused."""
    problems, tried, refused = [], 0, 0
    read(json.dumps(values))  # what is whole is read
    for what, text in tampered(values):
        start = time.monotonic()
        try:
            read(text)
        except UserError as e:
            refused += 1
            if len(str(e)) > LONGEST or "\n" in str(e):
                problems.append(f"{what}: a message of {len(str(e))} characters: {str(e)[:200]}")
        except Exception as e:
            problems.append(f"{what}: {type(e).__name__}: {str(e)[:200]}")
        if (seconds := time.monotonic() - start) > SECONDS:
            problems.append(f"{what}: {seconds:.0f} s")
        tried += 1
    assert not problems, f"{len(problems)} of {tried}:\n" + "\n".join(problems[:100])
    assert tried > 20
    assert refused >= least * tried


def try_file(path, read, **options):
    """The same for a file: `read` is called when it has been changed."""

    def read_text(text):
        path.write_text(text)
        read()

    try_all(json.loads(path.read_text()), read_text, **options)


def copied(tmp_path, part):
    shutil.copytree(QUICKSTART / part, tmp_path / part)
    return tmp_path / part


@pytest.mark.slow
@pytest.mark.parametrize("part", ["transformer", "autoencoder"])
def test_sizes_beside_weights(tmp_path, part):
    folder = copied(tmp_path, part)
    try_file(folder / "config.json", lambda: open_weights(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("part", "name"), [("transformer", "transformer"), ("autoencoder", "vae")])
def test_sizes_in_folders_of_diffusers(tmp_path, part, name):
    folder = tmp_path / "out"
    write_diffusers(folder, {name: open_weights(QUICKSTART / part)})
    path = folder / "config.json"
    values = json.loads(path.read_text())

    def read(text):
        path.write_text(text)
        open_weights(folder)

    told = ("_class_name", "block_out_channels", "layers_per_block", "_step1x_jax")  # quick enough
    changed = {n: x for n, x in values.items() if n in told}
    rest = {n: x for n, x in values.items() if n not in told}

    def read_with_the_rest(text):
        read(text.replace("{", json.dumps(rest)[:-1] + ", ", 1) if text[0] == "{" else text)

    try_all(changed, read_with_the_rest, least=0.1)
    if part == "autoencoder":
        assert "_step1x_jax" not in values
        return
    path.write_text(json.dumps(values | {"_step1x_jax": None}))  # as others write it
    sizes = {n: x for n, x in values.items() if n != "_step1x_jax"}
    # The release's ratio and text length, which diffusers' file does not say, are this model's not.
    sizes["_class_name"] = "FluxTransformer2DModel"
    for text in (
        json.dumps(sizes | {"num_layers": 10**9}),
        json.dumps(sizes | {"num_layers": "1"}),
    ):
        with pytest.raises(UserError):
            read(text)


def test_sizes_of_the_language_model(tmp_path):
    path = tmp_path / "config.json"

    def read(text):
        path.write_text(text)
        read_mllm_config(tmp_path)

    for folder in (QUICKSTART / "encoder", Path("tests/vectors/mllm/model")):  # nested, flat
        try_all(json.loads((folder / "config.json").read_text()), read, least=0.1)


def test_settings_of_the_picture_processor(tmp_path):
    folder = copied(tmp_path, "encoder")
    path = folder / "preprocessor_config.json"
    vision = read_mllm_config(folder).vision
    try_file(path, lambda: Processor(folder, 3136, 254016, vision), least=0.1)


@pytest.mark.slow
def test_what_editing_needs_beside_weights(tmp_path, monkeypatch):
    shutil.copytree(QUICKSTART, tmp_path / "model")
    monkeypatch.setattr(loading, "load_model", lambda *args, **options: None)
    for name in ("load_encoder", "load_autoencoder"):
        monkeypatch.setattr(loading, name, lambda *args, **options: None)
    path = tmp_path / "model" / "transformer" / "config.json"
    names = ("size_level", "sample_steps", "cfg_scale", "sample_shift", "min_pixels", "max_pixels")
    assert set(names) <= set(json.loads(path.read_text()))
    try_file(path, lambda: loading.load_parts(str(tmp_path / "model")), least=0.1)


@pytest.mark.parametrize("name", ["model", "diffusion_pytorch_model"])
def test_indices_of_weight_files(tmp_path, name):
    rng = np.random.default_rng(0)
    tensors = {f"a.{i}.weight": rng.standard_normal((4, 4)).astype(np.float32) for i in range(4)}
    for i in range(2):
        part = dict(list(tensors.items())[2 * i : 2 * i + 2])
        save_file(part, tmp_path / f"{name}-0000{i + 1}-of-00002.safetensors")
    where = {t: f"{name}-0000{i // 2 + 1}-of-00002.safetensors" for i, t in enumerate(tensors)}
    index = tmp_path / f"{name}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 256}, "weight_map": where}))

    def read():
        file = open_file(tmp_path)
        assert sorted(file.shapes) == sorted(tensors)  # nothing else is read silently
        for tensor in tensors:
            np.testing.assert_array_equal(file.read(tensor), tensors[tensor])

    try_file(index, read)


def test_settings_of_adapters(tmp_path):
    sizes = json.loads((QUICKSTART / "transformer" / "config.json").read_text())
    table = model_table(model_from_json(sizes, "config.json"))
    width = sizes["hidden_size"]
    layer = "base_model.model.transformer_blocks.0.attn.to_out.0"
    halves = {
        f"{layer}.lora_A.weight": np.ones((4, width), np.float32),
        f"{layer}.lora_B.weight": np.ones((width, 4), np.float32),
    }
    save_file(halves, tmp_path / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_out.0"],
        "rank_pattern": {}, "alpha_pattern": {"to_out.0": 8}, "use_rslora": False, "bias": "none",
        "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None,
    }  # fmt: skip
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(settings))

    def read():
        lora = LoraFile(tmp_path, table)
        for module in lora.shapes:
            list(lora.deltas(module))

    try_file(path, read, least=0.1)


def test_what_a_data_set_says_of_itself(tmp_path):
    write_dataset(tmp_path, [make_record(i) for i in range(8)], {"size": 64})

    def read():
        config = DataConfig(path=str(tmp_path), batch_size=4, threads=0)
        next(make_batches(config, text_length=8, seed=0, start_step=0))

    try_file(tmp_path / MANIFEST, read)


def test_headers_of_records():
    data = encode_record(make_record(1))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])

    def read(text):
        head = text.encode(errors="surrogatepass")
        decode_record(
            len(head).to_bytes(8, "little") + head + data[start:], "record 1", "make it again"
        )

    try_all(header, read)
    metadata = header["__metadata__"]
    sizes = {name: json.loads(metadata[name]) for name in ("source_size", "target_size")}
    for name, size in sizes.items():
        try_all(
            size,
            lambda text, name=name: read(
                json.dumps(header | {"__metadata__": metadata | {name: text}})
            ),
        )


ROW = {"source": "a.png", "target": "b.png", "instruction": "Invert", "task": "x", "id": "1"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("edits.jsonl", ROW),
        ("edits.json", [ROW, ROW]),
        ("edits.json", {"b.png": {"ref_image_path": "a.png", "caption": "Invert"}}),
        ("edit_turns.json", [{"input": "1-a.png", "output": "1-b.png", "instruction": "Invert"}]),
        ("prompt.json", {"edit": "Invert", "input": "a"}),
        (
            "edits.jsonl",
            {"src_img": "a.png", "edited_img": "b.png", "edited_prompt_list": ["Do it", "It"]},
        ),
        (
            "edits.jsonl",
            {
                "image_file": "a.png",
                "edited_file": "b.png",
                "edit_instruction": "x",
                "edit_type": "y",
            },
        ),
    ],
)
def test_lists_of_edits(tmp_path, name, values):
    for picture in ("1_0.jpg", "1_1.jpg"):
        (tmp_path / picture).write_bytes(b"")

    def read(text):
        (tmp_path / name).write_text(text)
        triplets, bad = read_triplets(tmp_path)
        for triplet in triplets:
            assert all(
                isinstance(x, str) for x in (triplet.id, triplet.instruction, triplet.source)
            )
            triplet.instruction.encode()
            triplet.id.encode()
        if not triplets or bad:
            raise UserError(bad[0].reason)

    try_all(values, read)


def test_the_config_of_a_run(tmp_path):
    save_config(tiny_config(), tmp_path / "config.json")

    def read():
        load_config(tmp_path / "config.json").validate()

    try_file(tmp_path / "config.json", read, least=0.5)
