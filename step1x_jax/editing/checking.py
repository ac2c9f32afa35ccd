"""First contact with weights: all tensors accounted for, files' sums, rules, memory, time of steps.

The released weights are too large for tests. Whoever has them confirms with this that they are
loaded right, or learns what to report.
"""

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.encoder import (
    EncoderConfig,
    check_encoder,
    missing_files,
    reading_folder,
)
from step1x_jax.conditioning.images import to_array
from step1x_jax.conditioning.processor import Processor
from step1x_jax.conditioning.tokenizer import FILE as TOKENIZER
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.fingerprints import weights_fingerprint
from step1x_jax.editing.loading import autoencoder_of_run, find_parts, model_path
from step1x_jax.editing.memory import TooLittleMemory
from step1x_jax.editing.progress import Step
from step1x_jax.editing.published import (
    DIFFERS,
    NOT_COMPARED,
    NOTED,
    OK,
    Finding,
    PublishedValues,
    check_prompts,
    check_rules,
    compared,
    read_published,
)
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.files import file_size, find, reason, user_path
from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.parallel.devices import GIB, get_memory_bytes
from step1x_jax.weights.checks import check_tensors
from step1x_jax.weights.config_json import to_json
from step1x_jax.weights.files.opening import open_raw
from step1x_jax.weights.files.shards import is_index
from step1x_jax.weights.language_model import FILE as LANGUAGE_FILE
from step1x_jax.weights.language_model import open_mllm, read_mllm_config
from step1x_jax.weights.layouts.qwen import NEW_PREFIXES, mllm_table
from step1x_jax.weights.load import open_autoencoder
from step1x_jax.weights.open import Weights, check_is_model, official_shapes, open_weights
from step1x_jax.weights.readers import Shape, Tensors, nbytes
from step1x_jax.weights.run.folder import is_run

CHUNK = 16 << 20  # bytes that are read at once
LARGE = 10**9  # parameters of which a step on a CPU takes minutes
STEPS = 3  # the first one compiles
SMALL = 256  # size level
INSTRUCTION = "Make it night"
LEAST_PSNR = 20.0  # dB of a smooth picture that went through the autoencoder: a wrong one has < 15

Tell = Callable[[str, int, int], object]  # a file, its bytes that are read, all its bytes


def _untold(file: str, read: int, size: int) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class OpenedComponent:
    """One of the models, opened.

    Attributes:
      name: "model", "autoencoder" or "language model".
      tensors: under their official names.
      files: that hold them, and what else belongs to them.
    """

    name: str
    tensors: Tensors
    files: Sequence[epath.Path]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(nbytes(self.tensors, name) for name in self.tensors.shapes)

    @property
    def parameters(self) -> int:
        """How many numbers they have."""
        return _parameters(self.tensors.shapes)


def check_weights(
    path: str,
    *,
    base: str | None = None,
    text_encoder: str | None = None,
    vae: str | None = None,
    tell: Tell = _untold,
    **loading: Any,
) -> Iterator[Finding]:
    """Check weights, and how they are read, against what is published.

    Args:
      path: see `Editor.load`, as are base, text_encoder and vae.
      base: of a run of adapters.
      text_encoder: the language model's folder, if not with the model.
      vae: the autoencoder, if not with the model.
      tell: is told how far a file has been read.
      loading: other arguments of `Editor.load`: dtype, mesh, quantize, offload.

    Yields:
      Findings, as they are made: minutes for the released weights.

    Raises:
      UserError: there is no model at the path.
    """
    published = read_published()
    places = find_parts(path)
    reading = EncoderConfig()
    encoder = user_path(text_encoder) if text_encoder else str(places.encoder or "")
    decoder = epath.Path(user_path(vae)) if vae else places.autoencoder
    components: list[OpenedComponent] = []
    findings: list[Finding] = []
    weights: Weights | None = None
    try:
        weights = open_weights(places.model, base=base and model_path(base))
        check_is_model(weights)
        reading = encoder_of(weights)
        encoder = encoder or reading.path
        decoder = decoder or autoencoder_of_run(weights)
        components.append(OpenedComponent("model", weights.tensors, _files(places.model)))
        findings += _model(published, weights)
    except UserError as e:
        findings.append(Finding("model", DIFFERS, str(e)))
    yield from findings
    for name, place, check in (
        ("autoencoder", str(decoder or ""), _autoencoder),
        ("language model", encoder, _language_model),
    ):
        missing = _missing(name, place)
        if missing:
            yield Finding(name, NOT_COMPARED, missing)
            continue
        try:
            component, found = check(published, place)
        except UserError as e:
            yield Finding(name, DIFFERS, str(e))
            continue
        components.append(component)
        yield from found
    for component in components:
        yield from _sums_of(published, component, tell)
    if is_run(places.model):
        yield Finding("model: fingerprint", NOTED, weights_fingerprint(places.model))
    yield from check_rules(published)
    if not _missing("language model", encoder):
        yield from _reading(published, encoder)
    if weights is not None:
        yield _as_released(reading)
    yield from _memory(components)
    if len(components) < 3 or weights is None:
        why = "a part is missing or differs; the numbers are read, no model is run"
        yield from _numbers_alone(components, why)
        return
    if jax.default_backend() == "cpu" and components[0].parameters > LARGE:
        why = (
            "on a CPU it takes minutes for a model of this size: check where there is a GPU or TPU"
        )
        yield from _numbers_alone(components, why)
        return
    try:
        options = {"base": base, "text_encoder": text_encoder, "vae": vae, **loading}
        yield from _edits(Editor.load(path, **options), sampling_of(weights).size)
    except TooLittleMemory as e:
        yield from _numbers_alone(components, str(e))
    except UserError as e:
        yield Finding("an edit", DIFFERS, str(e))


def _missing(name: str, place: str) -> str:
    """Why a part cannot be looked at; "" if it can."""
    flag = "--vae" if name == "autoencoder" else "--text_encoder"
    if not place or not epath.Path(place).exists():
        return f"{place or 'nothing'} is not there; download it, or say where it is with {flag}"
    lacking = missing_files(place) if name == "language model" else []
    return f"{' and '.join(lacking)}; download the folder again" if lacking else ""


def _files(place: epath.Path) -> list[epath.Path]:
    """The files with a part's tensors; of a run none."""
    if is_run(place):
        return []
    file = open_raw(place)
    return find(file.path.parent, "*.safetensors") if is_index(file.path) else [file.path]


def _model(published: PublishedValues, weights: Weights) -> list[Finding]:
    config = weights.config
    assert isinstance(config, ModelConfig)
    released = ModelConfig(version=config.version)
    same = to_json(config) == to_json(released)
    ours = _numbers(abstract_model(config)[1])
    return _accounted(
        "model", weights.tensors, official_shapes(config), ours, same, published, config.version
    )


def _autoencoder(published: PublishedValues, place: str) -> tuple[OpenedComponent, list[Finding]]:
    weights = open_autoencoder(place)
    config = weights.config
    assert isinstance(config, AutoencoderConfig)
    component = OpenedComponent("autoencoder", weights.tensors, _files(weights.path))
    ours = _numbers(abstract_autoencoder(config)[1])
    same = to_json(config) == to_json(AutoencoderConfig())
    shapes = official_shapes(config)
    found = _accounted(
        component.name, component.tensors, shapes, ours, same, published, component.name
    )
    return component, found


def _language_model(
    published: PublishedValues, place: str
) -> tuple[OpenedComponent, list[Finding]]:
    check_encoder(place)
    folder = epath.Path(place)
    config, tensors = read_mllm_config(place), open_mllm(place)
    table = mllm_table(config, newer=any(name.startswith(NEW_PREFIXES) for name in tensors.shapes))
    check_tensors(folder, tensors.shapes, table, dtypes=tensors.dtypes)
    stored = open_raw(folder, (LANGUAGE_FILE,))
    files = [stored.path]
    if is_index(stored.path):
        files = find(folder, "*.safetensors")
    component = OpenedComponent(
        "language model", tensors, [*files, reading_folder(place) / TOKENIZER]
    )
    ours = _numbers(abstract_mllm(config)[1])
    usual = MLLMConfig()
    same = (config.vision, config.language) == (usual.vision, usual.language)
    shapes = {name: entry.shape for name, entry in table.items()}
    found = _accounted(component.name, tensors, shapes, ours, same, published, component.name)
    unused = sorted(set(stored.shapes) - set(tensors.shapes))
    if unused:
        text = f"{', '.join(unused)}: only writing text needs it"
        found.append(Finding("language model: left out on purpose", NOTED, text))
    return component, found


def _numbers(params: nnx.State) -> int:
    """How many numbers abstract parameters have."""
    return sum(x.size for x in jax.tree.leaves(params))


def _parameters(shapes: Mapping[str, Shape]) -> int:
    return sum(map(math.prod, shapes.values()))


def _accounted(
    name: str,
    tensors: Tensors,
    expected: Mapping[str, Shape],
    ours: int,
    released: bool,
    published: PublishedValues,
    count: str,
) -> list[Finding]:
    """Report the tensors, part by part, and whether they are all that is needed.

    Args:
      name: of the model.
      tensors: of it.
      expected: what its sizes ask for.
      ours: numbers in our parameters, which these fill.
      released: whether the sizes are the release's.
      published: its counts,
      count: and which of them.
    """
    groups: dict[str, list[str]] = {}
    for tensor in tensors.shapes:
        words = tensor.split(".")
        groups.setdefault(".".join(words[: 2 if words[0] == "model" else 1]), []).append(tensor)
    findings = []
    for group, names in groups.items():
        numbers = _parameters({tensor: tensors.shapes[tensor] for tensor in names})
        dtypes = " and ".join(sorted({str(tensors.dtypes[tensor]) for tensor in names}))
        text = f"tensors {len(names)}, parameters {numbers:,}, {dtypes}"
        findings.append(Finding(f"{name}: {group}", NOTED, text))
    there = _parameters(tensors.shapes)
    odd = sorted(
        tensor
        for tensor in {*tensors.shapes, *expected}
        if tensors.shapes.get(tensor) != expected.get(tensor)
    )
    text = f"{len(tensors.shapes)}, parameters {there:,}: each is used, and none is missing"
    fine = not odd and there == ours
    if not fine:
        text = f"{there:,} parameters, and ours have {ours:,}; {', '.join(odd[:3]) or 'same names'}"
    findings.append(Finding(f"{name}: tensors", OK if fine else DIFFERS, text))
    title = f"{name}: released sizes"
    if not released:
        text = "the config.json beside it has other sizes"
        return [*findings, Finding(title, NOT_COMPARED, text)]
    want = published.models[count]
    cases = [
        ("tensors", f"{len(tensors.shapes):,}", f"{want.tensors:,}"),
        ("parameters", f"{there:,}", f"{want.parameters:,}"),
    ]
    return [*findings, compared(title, cases)]


def _sums_of(
    published: PublishedValues, component: OpenedComponent, tell: Tell
) -> Iterator[Finding]:
    """The SHA-256 of a component's files, as sha256sum and the pages of the hub show it."""
    for file in component.files:
        name = f"{component.name}: {file.name}"
        try:
            found, size = sha256_of(file, tell), file_size(file)
        except OSError as e:
            yield Finding(name, DIFFERS, f"it cannot be read ({reason(e)})")
            continue
        known = [k for k in published.files if (k.name, k.bytes) == (file.name, size)]
        if not known or found in [k.sha256 for k in known]:
            of = "".join(f", {k.of}" for k in known if k.sha256 == found)
            yield Finding(name, OK if known else NOTED, f"sha256 {found}{of}")
        else:
            expected = " or ".join(f"{k.sha256} ({k.of})" for k in known)
            yield Finding(name, DIFFERS, f"sha256 {found}, expected {expected}")


def sha256_of(file: epath.Path, tell: Tell = _untold) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Args:
      file: here or on an object store.
      tell: see `check_weights`.

    Raises:
      OSError: it cannot be read.
    """
    size, done, digest = file_size(file), 0, hashlib.sha256()
    with file.open("rb") as f:
        while data := f.read(CHUNK):
            digest.update(data)
            done += len(data)
            tell(str(file), done, size)
    return digest.hexdigest()


def _reading(published: PublishedValues, place: str) -> Iterator[Finding]:
    """How the language model's folder reads pictures and prompts, with the releases' settings."""
    name, usual = "tokens of pictures in the language model", EncoderConfig()
    try:
        config, beside = read_mllm_config(place), reading_folder(place)
        processor = Processor(beside, usual.min_pixels, usual.max_pixels, config.vision)
        cases = [
            (f"{w}x{h}", processor(Image.new("RGB", (w, h))).tokens, tokens)
            for w, h, tokens in published.picture_tokens
        ]
        yield compared(name, cases)
        vocabulary = config.language.vocab_size
        yield check_prompts(published, load_tokenizer(beside, vocabulary), vocabulary)
    except UserError as e:
        yield Finding("reading of pictures and prompts", DIFFERS, str(e))


def _as_released(reading: EncoderConfig) -> Finding:
    """Whether this model reads with the releases' settings, which the cases above are of."""
    name, usual = "settings of reading", EncoderConfig()
    fields = ("min_pixels", "max_pixels", "text_length", "quoting", "picture_label")
    own = [f"{f} {getattr(reading, f)}" for f in fields if getattr(reading, f) != getattr(usual, f)]
    if own:
        return Finding(name, NOT_COMPARED, f"this model has its own: {', '.join(own)}")
    return Finding(name, OK, "as published")


def _memory(components: Sequence[OpenedComponent]) -> Iterator[Finding]:
    each = ", ".join(f"{component.name} {component.bytes / GIB:.2f}" for component in components)
    total = sum(component.bytes for component in components) / GIB
    yield Finding("memory of the weights", NOTED, f"{total:.2f} GiB ({each or 'none'})")
    device = jax.devices()[0]
    available = get_memory_bytes(device)
    has = "does not say how much it has" if available is None else f"has {available / GIB:.2f} GiB"
    yield Finding("memory of the device", NOTED, f"{device.device_kind} {has}")


def _numbers_alone(components: Sequence[OpenedComponent], why: str) -> Iterator[Finding]:
    """Read all tensors where they are not loaded; readers refuse what is not finite."""
    for component in components:
        try:
            for tensor in component.tensors.shapes:
                component.tensors.read(tensor)
            yield Finding(f"{component.name}: numbers", OK, "all are finite")
        except UserError as e:
            yield Finding(f"{component.name}: numbers", DIFFERS, str(e))
    yield Finding("time of a step", NOT_COMPARED, why)


def _edits(editor: Editor, size: int) -> Iterator[Finding]:
    """Steps of small and of usual pictures, with all models, and the way through the autoencoder.

    Args:
      editor: loaded.
      size: the model's size level.
    """
    for side in dict.fromkeys((min(SMALL, size), size)):
        picture, marks = _smooth(side), list[float]()

        def note(_: Step, marks: list[float] = marks) -> None:
            marks.append(time.perf_counter())

        editor.edit(picture, INSTRUCTION, size=side, steps=STEPS, on_step=note)
        seconds = min(b - a for a, b in itertools.pairwise(marks))
        text = f"{seconds:.3g} s on {jax.devices()[0].device_kind}, compiled, guidance included"
        yield Finding(f"time of a step at {side} px", NOTED, text)
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        text = f"{stats['peak_bytes_in_use'] / GIB:.2f} GiB on {jax.devices()[0].device_kind}"
        yield Finding("memory in use at most", NOTED, text)
    error = to_array(editor.decode(editor.encode(picture)[None])[0]) - to_array(picture)
    psnr = 10 * math.log10(4 / max(float(np.square(error).mean()), 1e-12))
    text = f"a smooth picture comes back with a PSNR of {psnr:.1f} dB"
    if psnr >= LEAST_PSNR:
        yield Finding("autoencoder: there and back", OK, text)
    else:
        text += f", expected at least {LEAST_PSNR:g}"
        yield Finding("autoencoder: there and back", DIFFERS, text)


def _smooth(side: int) -> Image.Image:
    """A square picture with soft colours."""
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    waves = np.stack([np.sin(3 * x + y), np.cos(2 * y - x), np.sin(2 * x * y + 1)], axis=-1)
    return Image.fromarray((127.5 + 90 * waves).astype(np.uint8))
