"""Breaks the package on purpose, in one place at a time, and asks the quick tests to notice.

    python -m tests.mutations [--check] [NAME ...]

Each mutation of TABLE (all, or those named) is made in a temporary copy of the tree. The tests
named beside it run first (before that, once without any), then, if these pass, all quick ones. One
row of a Markdown table is printed per mutation: its name, the first test that failed, seconds. The
exit code is 1 if one survives, or if an old text does not occur exactly once in its file; --check
looks only for that.

Tests WITH_EXTRAS need the extras torch, diffusers and curation, and are run all the same; where one
is missing, their mutations are left out, which is printed.

A mutation that changes nothing one could measure has no place here.
"""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
QUICK = (
    "not (slow or torch or quickstart or parquet or gcs or demo or evaluation or deidentify"
    " or curation)"
)
OPERATORS = "tests/curation/operators"
ENGINE = "tests/curation/engine"
GATES = "tests/curation/embedded/test_gates.py"
WITH_EXTRAS = (OPERATORS, f"{ENGINE}/test_driver.py", f"{ENGINE}/test_crashes.py", GATES)
LIBRARIES = ("torch", "diffusers", "cv2", "pyarrow", "skimage")  # that these need
TIMEOUT = 1800  # seconds; code that hangs is noticed, too

DIT = "tests/test_golden.py::test_published_numbers[dit_v1_1]"
DIT_0 = "tests/test_golden.py::test_published_numbers[dit_v1_0]"
VAE = "tests/test_golden.py::test_published_numbers[vae]"
MLLM = "tests/test_golden.py::test_published_numbers[mllm]"
HOPPER = "tests/kernels/test_gpu_interpreted.py"
SECOND_LANE = ROOT / ".venv-3.12/bin/python"  # of launch/test.sh --all, for HOPPER alone
GOLDEN_LORA = "tests/test_golden.py::test_published_numbers[lora]"
LORA = "tests/training/test_lora.py"
OTHER_BASE = f"{LORA}::test_another_base_is_refused"
MODEL = "tests/models/test_step1x_edit.py"
MANY = "tests/launch/test_edit_many.py"
LISTS = f"{MANY}::test_lists_are_read_strictly_and_before_anything_is_loaded"
REFUSED = f"{MANY}::test_what_is_wrong_is_refused_before_anything_is_loaded"
RESUMED = (
    f"{MANY}::test_a_command_goes_on_where_it_was_interrupted"
    f" {MANY}::test_what_was_made_otherwise_is_not_replaced_unasked"
)
FAILING = f"{MANY}::test_a_row_that_fails_is_reported_and_the_rest_is_made"
MASKS = f"{MANY}::test_masks"
EDIT = "tests/launch/test_edit.py::test_what_is_wrong_is_refused_before_anything_is_loaded"


class Mutation(NamedTuple):
    """One plausible mistake."""

    name: str
    file: str  # below step1x_jax/
    old: str  # occurs once in the file
    new: str
    tests: str  # that should notice


# (file, tests that should notice): (name, old, new), ...
# fmt: off
TABLE: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("data/manifest.py", "tests/test_changelog.py"): [
        ("a form of which the changelog says nothing", "VERSION = 3", "VERSION = 4"),
    ],
    ("editing/editor.py", "tests/test_api_page.py"): [
        ("the API page is of another docstring", "Makes pictures from text alone, which v1.1 can",
         "Makes pictures from text, which v1.1 can"),
    ],
    ("__init__.py", "tests/test_package.py"): [
        ("any name is looked for", "if name not in EXPORTS:", "if False:"),
        ("type checkers miss an export", "import Editor as Editor", "import Editor"),
    ],
    ("kernels/flash.py", "tests/models/test_remat.py"): [
        ("sums not stored", "checkpoint_name(lse, ATTENTION)", "lse"),
    ],
    ("kernels/flash.py", "tests/kernels"): [
        ("every device has the whole batch", "batch = BATCH_AXES if b % parts == 0 else None",
         "batch = None"),
        ("groups in another order", "jnp.repeat(x, h // x.shape[2], axis=2)",
         "jnp.concatenate([x] * (h // x.shape[2]), axis=2)"),
    ],
    ("kernels/attention.py", "tests/kernels"): [
        ("causal ignored", 'return "has no causal mask"', "pass"),
    ],
    ("kernels/attention_tpu.py", "tests/kernels/test_implementations.py"): [
        ("last chunk without mask", "attend(whole, masked=True, online=online)",
         "attend(whole, masked=False, online=online)"),
        ("last chunk forgotten", "@pl.when(whole * chunk < length)", "@pl.when(False)"),
        ("sums not rescaled", "l_ref[...] * rescale +", "l_ref[...] +"),
        ("values not rescaled", "acc_ref[...] * rescale +", "acc_ref[...] +"),
        ("first norm for all", "jnp.where(rows < split, scales[0:1], scales[1:2])", "scales[0:1]"),
        ("rotation the other way back", "dz = dy * rope[0] + _half_turn(dy * rope[1])",
         "dz = dy * rope[0] + _half_turn(dy) * rope[1]"),
        ("norm's mean forgotten", "inverse * (dn - normed * jnp", "inverse * (dn - 0 * jnp"),
        ("padding of the last block of keys",
         "p = jnp.where(_rows(j * block, block) < length, p, 0)", "p = p + 0"),
        ("delta forgotten", "(p * (dp - delta_ref[:, at]))", "(p * dp)"),
        ("queries' gradient of the last block", "acc_ref[at, :] += _dot(ds",
         "acc_ref[at, :] = _dot(ds"),
        ("keys' gradient in base 2", "dk * (1 / LOG2E if fused else scale)", "dk * scale"),
        ("scales of the last block", "dqs_ref[...] = jnp.zeros_like(dqs_ref)", "pass"),
    ],
    ("kernels/norm_rope.py", "tests/kernels"): [
        ("eps of QK-norm", "QK_NORM_EPS = 1e-6", "QK_NORM_EPS = 1e-5"),
        ("no maximum kept", "LARGEST_BOUND = 100.0", "LARGEST_BOUND = 1e9"),
        ("scales swapped", "x[:, :split] * scales[0], x[:, split:] * scales[1]",
         "x[:, :split] * scales[1], x[:, split:] * scales[0]"),
    ],
    ("kernels/gpu.py", HOPPER): [
        ("tiles overwritten while read", "plgpu.barrier_wait(free.at[slot])", "pass"),
        ("Hopper: turns backwards", "return a * cos - b * sin, b * cos + a * sin",
         "return a * cos + b * sin, b * cos - a * sin"),
        ("Hopper: one norm for all rows", "numbers(shape, 0) + start < split", "start < split"),
        ("Hopper: mean of the norm's gradient", "inverse * (da - a * mean)", "inverse * da"),
    ],
    ("kernels/attention_gpu.py", HOPPER): [
        ("values not waited for", 'plgpu.barrier_wait(scratch["values_here"].at[slot])', "pass"),
        ("Hopper: keys not masked", "+ step * size < length, s, -jnp.inf)",
         "+ step * size < 1e9, s, -jnp.inf)"),
        ("Hopper: sum not rescaled", "total * rescale", "total"),
        ("Hopper: output over sum of weights", "acc / gpu.by_rows(total, acc.shape)", "acc"),
        ("Hopper: sums without maximum", "m + jnp.log(total) * LOG2E", "jnp.log(total) * LOG2E"),
    ],
    ("kernels/attention_gpu_backward.py", HOPPER): [
        ("Hopper: gradient of invalid keys", "jnp.where(valid, dv, 0.0)", "(dv)"),
        ("Hopper: keys not masked for dq", "(s.shape, 1) + i * size < length",
         "(s.shape, 1) + i * size < 10**9"),
        ("Hopper: keys' gradient in base 2", "1 / LOG2E if fused else softmax_scale",
         "softmax_scale"),
        ("Hopper: scale's gradient of both norms", "jnp.where(first, 0.0, of_scale[i])",
         "of_scale[i]"),
        ("Hopper: raw rows not fetched again", "plgpu.barrier_wait(self.again)", "pass"),
    ],
    ("kernels/tuning.py", "tests/kernels/test_implementations.py"): [
        ("wasteful chunks", "if padded[c] <= 1.03 * least", "if padded[c] <= 2 * least"),
        ("table for any number of keys", "TPU_TABLE.get((device_kind, length)) if length == size",
         "TPU_TABLE.get((device_kind, length)) if True"),
    ],
    ("models/layers.py", "tests/training/step/test_train_step.py"): [
        ("batch gathered", "x = jax.tree.map(split_activation, x)", "x = x"),
    ],
    ("models/remat.py", "tests/models/test_remat.py tests/models/test_layers.py"): [
        ("policy stores nothing", "policy=names)", "policy=None)"),
        ("qkv not stored", "(ATTENTION, GATED, QKV, MLP),", "(ATTENTION, GATED, MLP),"),
        ("one gated value for all", "2 if double else 1", "1"),
        ("offload on CPUs", 'if platform() == "cpu":', "if False:"),
    ],
    (
        "models/placement.py",
        "tests/models/test_placement.py tests/training/step/test_train_step.py",
    ): [
        ("pinned without a mesh", "names is None or alone:", "names is None:"),
        ("gradient not cast back", "stored).astype(stored_dtype),)", "stored),)"),
    ],
    ("models/layers.py", DIT): [
        ("shift and scale swapped", "shift: jax.Array, scale: jax.Array", "scale, shift"),
        ("layers in reverse", "x, (params, own))", "x, (params, own), reverse=True)"),
    ],
    ("models/layers.py", "tests/models/test_layers.py"): [
        ("eps of LayerNorm", "centred**2, axis=-1, keepdims=True) + 1e-6",
         "centred**2, axis=-1, keepdims=True) + 1e-5"),
        ("remat ignored", "checkpointed(layer, remat)", "layer"),
        ("start of the gates", "config.gate_init * is_gate", "config.gate_init * ~is_gate"),
    ],
    ("models/lora.py", f"{LORA}::test_gradients_are_those_of_the_full_weights_by_the_chain_rule"): [
        ("adapter without scale", "down.astype(x.dtype)) * scale", "down.astype(x.dtype))"),
    ],
    ("models/lora.py", f"{LORA}::test_at_first_the_model_is_its_base_bit_for_bit"): [
        ("ups not zero", "value = jnp.zeros(shape, jnp.float32)",
         "value = jnp.ones(shape, jnp.float32)"),
    ],
    ("models/lora.py", f"{LORA}::test_on_eight_devices_all_is_split_as_the_kernels_are"): [
        ("rank not split", 'RANK: (rank, "rank")', "RANK: (rank, None)"),
    ],
    ("models/lora.py", f"{LORA}::test_a_base_in_8_bits"): [
        ("one scale for all channels", "axis=inner, keepdims=True) / largest",
         "keepdims=True) / largest + 0 * jnp.max(x, axis=inner, keepdims=True)"),
        ("rounded down", "x = jnp.round(x) if", "x = jnp.floor(x) if"),
    ],
    ("models/projection.py", "tests/models/test_projection.py"): [
        ("size of random kernels", "fan_in**-0.5", "fan_in**-1.0"),
        ("start of q and k", ".at[:2].set(qk_bias)", ".at[1:].set(qk_bias)"),
        ("biases summed token by token", "addend.shape[1:] == (1, y.shape[2])", "False"),
        ("everyone's shift", "if len(like) == len(dy) else", "if False else"),
        ("biases of q for k and v", "scales, biases, ups", "scales, biases[:1] * 3, ups"),
    ],
    ("models/projection.py", f"{LORA}::test_a_base_in_8_bits"): [
        ("8 bits without scale", "if scale is not None:", "if False:"),
    ],
    ("models/transformer.py", GOLDEN_LORA): [
        ("linear1's down not shared", "normed, down=self.attn.qkv.lora_down", "normed"),
        ("linear2's up not shared", "hidden, up=self.attn.proj.lora_up", "hidden"),
    ],
    ("models/embeddings.py", "tests/models/test_embeddings.py"): [
        ("order in a token", "transpose(0, 1, 3, 5, 2, 4)", "transpose(0, 1, 3, 2, 4, 5)"),
        ("rows and columns", "rows, columns], axis", "columns, rows], axis"),
        ("RoPE turns backwards", "[-sin, sin]", "[sin, -sin]"),
        ("RoPE cos and sin", "np.cos(angles), np.sin(angles)", "np.sin(angles), np.cos(angles)"),
        ("RoPE axes reversed", "ids[:, i, None]", "ids[:, 2 - i, None]"),
        ("RoPE theta", "/ theta **", "/ 1000.0 **"),
        ("RoPE in float16", "cos, sin = np.cos(angles)", "cos, sin = np.cos(np.half(angles))"),
        ("time not times 1000", "1000.0 * timesteps", "timesteps"),
        ("sines first", "[jnp.cos(angles), jnp.sin(angles)]", "[jnp.sin(angles), jnp.cos(angles)]"),
    ],
    ("models/connector.py", f"{DIT_0} tests/models/test_layers.py"): [
        ("padded queries give 0", ", v[:, :1])", ", 0 * v)"),
        ("connector sees padding", "attention(q, k, v, kv_lengths=lengths,", "attention(q, k, v,"),
        ("mean over padding", "total / lengths[:, None]", "total / text.shape[1]"),
        ("scale_factor without 1", "(1 + self.scale_factor", "(self.scale_factor"),
        ("remat not in connector", "remat=self.remat", 'remat="none"'),
    ],
    ("models/transformer.py", f"{DIT} {MODEL}"): [
        ("exact GELU", "approximate=True", "approximate=False"),
        ("q and k swapped", "q, k, v = self.attn.qkv(normed)",
         "k, q, v = self.attn.qkv(normed)"),
        ("double block modulated by the other",
         "of_all(double.img.mod, vec), of_all(double.txt.mod",
         "of_all(double.txt.mod, vec), of_all(double.img.mod"),
        ("padding behind the text seen", "kv_lengths = jnp.full(len(text), length,",
         "kv_lengths = jnp.full(len(text), wanted,"),
        ("double block without gate", "gate1[:, None] * checkpoint_name(", "checkpoint_name("),
        ("single block without gate", "x + gate[:, None] * checkpoint_name(both",
         "x + checkpoint_name(both"),
        ("final layer order", "shift, scale = self", "scale, shift = self"),
        ("no SiLU before modulation", "vec = nnx.silu(vec)", "vec = vec + 0"),
        ("norms of the streams swapped", "[self.img.attn.scales, self.txt.attn.scales]",
         "[self.txt.attn.scales, self.img.attn.scales]"),
        ("double block sees padding", "split=n, kv_lengths=kv_lengths", "split=n"),
        ("single block sees padding", "            kv_lengths=kv_lengths, impl",
         "            impl"),
    ],
    ("models/step1x_edit.py", f"{DIT} {DIT_0} {MODEL}"): [
        ("v1.1 without offset", 'shift = 0 if version == "v1.0" else 1', "shift = 0"),
        ("v1.0 with offset", 'shift = 0 if version == "v1.0" else 1', "shift = 1"),
        ("text has positions", "np.zeros((text_length, 3)", "np.ones((text_length, 3)"),
        ("padding masked", "None if config.attend", "None if not config.attend"),
        ("lengths without picture", "image.shape[1] + text_lengths", "text_lengths"),
    ],
    ("parallel/rules.py", "tests/parallel/test_rules.py"): [
        ("weights used as stored", "partial(spec, column=\"used\")", "partial(spec)"),
        ("modulations gathered", "Rule(SHARDS, SHARDS)", "Rule(SHARDS)"),
    ],
    ("parallel/compiler_options.py", "tests/parallel/test_compiler_options.py"): [
        ("no options", "TABLE.get(device.platform, {})", "{}"),
    ],
    ("planning/edit_memory.py", "tests/planning/test_edit.py"): [
        ("all wait somewhere", "if not offload:", "if False:"),
        ("the autoencoder waits too", "for name in {STAYS, AT_WORK[program]}",
         "for name in {AT_WORK[program]}"),
        ("weights alone", "max(there(program) + gib for", "max(there(program) for"),
        ("8 bits forgotten", "abstract_editing(config, quantize)[1]",
         "abstract_editing(config)[1]"),
        ("the autoencoder in parts", "AutoencoderConfig())[1], whole)",
         "AutoencoderConfig())[1], mesh)"),
    ],
    ("planning/edit.py", "tests/planning/test_edit.py"): [
        ("one instruction is read", '"read": 2,', '"read": 1,'),
        ("more parts than guidance has", "MeshConfig(data=1, fsdp=2, tensor=chips // 2),",
         "MeshConfig(data=1, fsdp=chips),"),
        ("always fits", "gib <= available", "gib <= 2 * available"),
        ("one branch of guidance", "flops = 2 * steps", "flops = steps"),
    ],
    ("planning/plan.py", "tests/planning/test_edit.py"): [
        ("several pictures", "if topology.slices > 1 or examples > 1:", "if False:"),
    ],
    ("planning/report.py", "tests/planning/test_edit.py"): [
        ("what does not fit is first", 'plan["estimated_edit_seconds"] or math.inf',
         'plan["estimated_edit_seconds"] or 0.0'),
    ],
    ("planning/gpu_memory.py", "tests/planning/test_gpu_memory.py"): [
        ("all of a card", "gib * 1024 <= USABLE * mib", "gib * 1024 <= mib"),
        ("an edit on two GPUs", "if len(devices) > 1:", "if len(devices) > 9:"),
    ],
    ("planning/hlo.py", "tests/planning"): [
        ("stack counted whole", "total += x.result[0].bytes", "total += parameter.result[0].bytes"),
        ("holes of a window count", "& (at % base == 0)", ""),
        ("padding counts", "(at >= 0) & (at <", "(at >= -(10**9)) & (at <"),
        ("VMEM counts", "or not source.result[0].in_hbm:", "or False:"),
        ("update counted once", "total += 2 * update.result", "total += update.result"),
    ],
    ("planning/estimate.py", "tests/planning"): [
        ("trips forgotten", "self.run(body, times * trips)", "self.run(body, times)"),
        ("peak is no floor", "max(estimated or 0.0, least, flops / self.chip.peak)",
         "max(estimated or 0.0, least)"),
        ("bytes are no floor", "max(estimated or 0.0, least, flops / self.chip.peak)",
         "max(estimated or 0.0, flops / self.chip.peak)"),
        ("one way of an all-reduce", '(2 if kind == "all-reduce" else 1)', "1"),
        ("links for two at once",
         "link_free = max(now, link_free) + wire\n                    under",
         "link_free = now + wire\n                    under"),
        ("collectives in fusions forgotten",
         "if i.operation in COLLECTIVES and not _chain(i):", "if False:"),
        ("all is hidden", "wait = max(0.0, done - now)", "wait = 0.0"),
        ("async copies are free", "self.hbm_bytes += times * sum(", "_ = times * sum("),
    ],
    ("planning/kernel_cycles.py", "tests/planning"): [
        ("one core", "-(-heads // chip.cores)", "heads"),
        ("wide units are full", "min(1.0, width / chip.mxu)", "1.0"),
    ],
    ("training/monitoring/flops.py", "tests/training/monitoring/test_flops.py"): [
        ("layers counted once", 'equation.params["length"] if', "1 if"),
    ],
    ("planning/chips.py", "tests/launch/test_compile_ahead.py"): [
        ("every group has all links", "if reach > 1:", "if True:"),
    ],
    ("planning/compilation.py", "tests/launch/test_compile_ahead.py"): [
        ("megabytes for gigabytes", '"M": 2**-10', '"M": 1.0'),
        ("temporaries alone", "0.0 if late else arguments", "0.0"),
    ],
    ("training/parts.py", "tests/planning/test_edit.py"): [
        ("weights everywhere", "return at(tree, shardings(tree, mesh))",
         "return at(tree, jax.tree.map("
         "lambda _: jax.sharding.NamedSharding(mesh, jax.P()), tree))"),
    ],
    ("planning/compilation.py", "tests/planning/test_edit.py"): [
        ("the picture in parts",
         "whole, side = replicated(mesh), size // PIXELS_PER_LATENT\n\n    def array(*shape",
         "whole, side = jax.sharding.NamedSharding(mesh, jax.P(None, (\"data\", \"fsdp\"))),"
         " size // PIXELS_PER_LATENT\n\n    def array(*shape"),
    ],
    ("parallel/mesh.py", "tests/parallel/test_mesh.py"): [
        ("parameters over slices", "if sizes[0] % slices:", "if False:"),
        ("fsdp without end",
         "math.gcd(len(devices) // slices // math.prod(sizes[2:]), WIDEST_FSDP)",
         "len(devices) // slices // math.prod(sizes[2:])"),
    ],
    ("training/step/remat_choice.py", "tests/training/step/test_remat_choice.py"): [
        ("state forgotten", "available - taken - ", "available - "),
        ("least that fits", "fitting[-1]", "fitting[0]"),
    ],
    ("models/autoencoder.py", VAE): [
        ("padding before", "padding=((0, 1), (0, 1))", "padding=((1, 0), (1, 0))"),
        ("scale before shift", "* (mean - self.config.shift_factor)",
         "* mean - self.config.shift_factor"),
        ("decode by the wrong side", "latents / self.config.scale_factor + self.config.shift",
         "latents / self.config.scale_factor - self.config.shift"),
        ("eps of GroupNorm", "epsilon=1e-6", "epsilon=1e-5"),
    ],
    ("models/autoencoder.py", "tests/models/test_autoencoder_tiles.py"): [
        ("attention by a kernel", 'attention(q, k, v, implementation="xla")', "attention(q, k, v)"),
        ("all queries at once", "min(length, QUERIES)", "length"),
        ("padded queries first", ".reshape(q.shape)[:, :length]", ".reshape(q.shape)[:, -length:]"),
    ],
    ("models/autoencoder_tiles.py", "tests/models/test_autoencoder_tiles.py"): [
        ("no rows around a strip", "window = rows + 2 * reach", "window = rows"),
        ("few rows around a strip", "reach = (convolutions + convolutions % 2) // finer",
         "reach = 2"),
        ("far too many rows around a strip", "convolutions % 2) // finer", "convolutions % 2) * 4"),
        ("rows of the last strip counted twice", "(row >= i * rows)", "(row >= start)"),
        ("one pass too few", "len(norms) + 1, go_over", "len(norms), go_over"),
        ("variance within strips alone", "parts.variance + (parts.mean - mean) ** 2",
         "parts.variance"),
        ("strips of equal shares", "+ [last]) / height", "+ [rows]) / (rows * strips)"),
        ("statistics of the window", "norms = _Norms(statistics, new=(row >= i * rows)",
         "norms = _Norms(statistics, new=(row >= 0) | (row >= i * rows)"),
        ("variance by squares",
         "jnp.square(x - mean[:, None, None, :, None]).mean(axes, where=where)",
         "jnp.square(x).mean(axes, where=where) - mean**2"),
        ("odd strips", "if rows < 2 or rows % 2:", "if rows < 2:"),
    ],
    ("kernels/attention_xla.py", "tests/kernels"): [
        ("attention scale", "width**-0.5", "size**-0.5"),
        ("one key too many", "< kv_lengths[:, None]", "<= kv_lengths[:, None]"),
        ("softmax in bfloat16", "softmax(logits, axis", "softmax(logits.astype(v.dtype), axis"),
    ],
    ("sampling/guidance.py", "tests/sampling"): [
        ("guidance from the condition", "return unconditional +", "return conditional +"),
        ("damping at truncate", "jnp.where(t > ", "jnp.where(t >= "),
        ("damping exponent", "jnp.maximum(norm, 1) ** 0.4", "jnp.maximum(norm, 1) ** 0.5"),
        ("norm over the tokens", "axis=-1, keepdims", "axis=1, keepdims"),
    ],
    ("sampling/sampler.py", "tests/sampling"): [
        ("compiled for each scale", "static_argnums=0,", "static_argnums=(0, 1),"),
        ("Euler sign", "= latents + (t_next - t)", "= latents - (t_next - t)"),
        ("condition and negative", "conditional, unconditional =", "unconditional, conditional ="),
    ],
    ("sampling/noise.py", "tests/sampling/test_noise.py"): [
        ("noise seeds", "_key(first + i)", "_key(first)"),
        ("upper half of a seed", "[seed >> 32, seed & 0xFFFFFFFF]", "[0, seed & 0xFFFFFFFF]"),
        ("truths are seeds", " or isinstance(seed, bool)", ""),
        ("noise file's layout", "values.transpose(0, 2, 3, 1)", "values.reshape(b, h, w, c)"),
        ("noise that is not finite", "if not np.isfinite(noise).all():", "if False:"),
        ("any dtype is noise", 'if dtype.kind != "f" or dtype.itemsize > 8:', "if False:"),
    ],
    ("sampling/sampler.py", DIT): [
        ("time of the step's end", "2 * len(latents), t, jnp", "2 * len(latents), t_next, jnp"),
    ],
    ("models/mllm/layers.py", MLLM): [
        ("gate and up swapped", "nnx.silu(self.gate_proj(x)) * self.up_proj(x)",
         "nnx.silu(self.up_proj(x)) * self.gate_proj(x)"),
        ("scale of RMSNorm", "y * self.scale.astype(jnp.float32)", "y"),
        ("mean taken off in RMSNorm", "y = x.astype(jnp.float32)",
         "y = x.astype(jnp.float32) - x.mean(-1, keepdims=True)"),
        ("positions of one axis", "positions[:, axes]", "positions[:, 0 * axes]"),
    ],
    ("models/mllm/vision.py", MLLM): [
        ("windows in all blocks", "jnp.where(is_full, pictures, windows)", "windows"),
        ("windows in no block", "jnp.where(is_full, pictures, windows)", "pictures"),
        ("GELU approximated", "approximate=False", "approximate=True"),
        ("frequencies of both axes in a row", "np.tile(frequencies(half, config.rope_theta), 2)",
         "frequencies(2 * half, config.rope_theta)"),
    ],
    ("models/mllm/vision.py", "tests/models/test_mllm.py"): [
        ("padding seen", "jnp.where(windows == PADDING, PADDING, 0)", "jnp.zeros_like(windows)"),
    ],
    ("models/mllm/language.py", MLLM): [
        ("not causal", "causal=True", "causal=False"),
        ("without the last norm", "self.norm(self._run(x, positions, attended, collect=False))",
         "self._run(x, positions, attended, collect=False)"),
        ("sections reversed", "config.mrope_section)", "config.mrope_section[::-1])"),
    ],
    ("models/mllm/positions.py", MLLM): [
        ("places not inverted", "places=np.argsort(token_order)", "places=token_order"),
        ("text goes on behind rows", "start + max(rows, columns)", "start + rows"),
        ("time counts from 0", "positions[0, start:stop] = start", "positions[0, start:stop] = 0"),
    ],
    ("models/mllm/positions.py", "tests/models/test_mllm.py"): [
        ("pictures in the padding", "is_picture[n:] = False", "pass"),
        ("windows across cut off", "-(-(w // merge) // side)", "w // merge // side"),
        ("padded to the wrong size", "min(fitting", "max(fitting"),
    ],
    ("models/mllm/config.py", "tests/models/test_mllm.py"): [
        ("stretched positions", 'ROPE_TYPES = ("mrope", ', 'ROPE_TYPES = ("yarn", "mrope", '),
        ("another model", "if kind not in known:", "if not kind:"),
        ("eps of absent fields", '"rms_norm_eps": 1e-5', '"rms_norm_eps": 1e-6'),
    ],
    ("weights/layouts/diffusers.py", "tests/weights/layouts/test_diffusers.py"): [
        ("diffusers: shift before scale",
         "Move(name, 0, theirs, half, half), Move(name, half, theirs, 0, half)",
         "Move(name, 0, theirs, 0, half), Move(name, half, theirs, half, half)"),
        ("diffusers: q and k swapped", '("attn.to_q", "attn.to_k", "attn.to_v"),\n    "txt',
         '("attn.to_k", "attn.to_q", "attn.to_v"),\n    "txt'),
        ("norms of the text's stream", '"txt_attn.norm.key_norm": ("attn.norm_added_k",)',
         '"txt_attn.norm.key_norm": ("attn.norm_added_q2",)'),
        ("names of an older draft", '"time_in.in_layer": "time_embed.in_layer"',
         '"time_in.in_layer": "time_embed.linear_1"'),
    ],
    ("weights/diffusers_folder.py", "tests/weights/layouts/test_diffusers.py"): [
        ("scale_factor without its one", "* (1 + scale.astype(np.float32))",
         "* scale.astype(np.float32)"),
        ("folding without a word", 'dict(tensors.metadata) | {"note": FOLDED}',
         "dict(tensors.metadata)"),
        ("format stays in the metadata", 'if name != "format"', "if True"),
    ],
    ("weights/readers.py", "tests/weights/layouts/test_diffusers.py"): [
        ("parts of two dtypes in the first's", "else np.dtype(np.float32)",
         "else source.dtypes[moves[0].here]"),
    ],
    ("weights/readers.py", "tests/weights/test_readers.py"): [
        ("rows from the start", "else move.here_at + wanted", "else wanted"),
        ("rows of the first part", "wanted = wanted - move.there_at", "pass"),
        ("rearranged: all is read", "return self._source.read(move.here, rows)",
         "return self._source.read(move.here)[move.here_at + wanted]"),
        ("parts in the order of the moves", "moves.sort(key=lambda move: move.there_at)", "pass"),
        ("rearranged: shapes as they were", "joined.reshape(len(joined), *self.shapes[name][1:])",
         "joined"),
        ("changed: all is read", "is None:\n            return self._source.read(name, rows)",
         "is None:\n            whole = self._source.read(name)\n"
         "            return whole if rows is None else whole[rows]"),
        ("changed: rows of the new one", "return array if rows is None else array[rows]",
         "return array"),
        ("cast: all is read", "return self._source.read(name, rows).astype(",
         "whole = self._source.read(name)\n"
         "            return (whole if rows is None else whole[rows]).astype("),
        ("cast: rounded to what it was", "np.dtype(dtype) for name in source.dtypes",
         "source.dtypes[name] for name in source.dtypes"),
        ("not checked first", "            self._check()\n", "            pass\n"),
        ("checked at each reading", "self._checked = True", "pass"),
    ],
    ("weights/published.py", "tests/weights/test_readers.py"): [
        ("published: all is read", "if rows is not None and entry.axis == 0:", "if False:"),
        ("published: rows of the first part", "where[0].stop)] - where[0].start",
         "where[0].stop)]"),
        ("published: parts on top of each other", "np.concatenate(pieces, axis=entry.axis)",
         "np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(entry.shape)"),
    ],
    ("weights/files/fp8.py", "tests/weights/test_readers.py"): [
        ("8 bits: all is read", "tensor = self._source.read(name, rows)",
         "tensor = self._source.read(name)\n"
         "        tensor = tensor if rows is None else tensor[rows]"),
        ("scale of some rows", "tensor if rows is None else None)", "tensor)"),
    ],
    ("weights/lora/merging.py", "tests/weights/test_readers.py"): [
        ("merged: all is read", "self._source.read(name, rows), self.dtypes[name]",
         "self._source.read(name)[... if rows is None else rows], self.dtypes[name]"),
        ("products of the weight before", "if self._last[0] != name:", "if not self._last[1]:"),
        ("products for each rows", "self._last = name, products", 'self._last = "", products'),
    ],
    ("weights/files/shards.py",
     "tests/weights/test_kinds.py tests/weights/layouts/test_diffusers.py"): [
        ("index points anywhere", "if not _SHARD_NAME.fullmatch(name) or", "if"),
        ("missing shard not named", "if missing := [", "if [] and ["),
        ("twins over shards", "if name in self._file_of:", "if False:"),
        ("index not compared", "if where.get(name) != file_name:", "if False:"),
        ("index promises more", "if name not in self._file_of:\n                raise",
         "if False:\n                raise"),
        ("shards without limit", "room -= nbytes(tensors, name)", "room -= 0"),
    ],
    ("weights/files/opening.py", "tests/weights/test_kinds.py"): [
        ("prefixes of other programs", "return WithoutPrefix(file, prefix)", "return file"),
        ("pickles by suffix", "if path.suffix.lower() in PICKLES:", "if False:"),
    ],
    ("weights/open.py", "tests/weights/test_matrix.py"): [
        ("the average is not asked for", "RunFolder(path, ema=ema, say=say)",
         "RunFolder(path, say=say)"),
        ("a run of adapters as its base", "sums.append((run.adapters(), 1.0))", "pass"),
        ("base of 8 bits rounded", "open_weights(place, exact=float32,",
         "open_weights(place, exact=False,"),
        ("FLUX.1 without what it lacks", 'if weights.kind.holds == "flux" and flux is not None:',
         "if False:"),
        ("FLUX.1 edited with", 'if weights.kind.holds == "flux":\n', "if False:\n"),
        ("autoencoder taken for a model",
         'if weights.kind.holds == "autoencoder":\n        raise UserError(f"{path} is an {title}',
         'if False:\n        raise UserError(f"{path} is an {title}'),
    ],
    ("weights/open.py", "tests/launch/test_edit_weights.py"): [
        ("a base without a use", "if base and not sums:", "if False:"),
        ("averages of files", "    elif ema:\n", "    elif False:\n"),
        ("anything as a LoRA", 'kind = kind_at(path)\n    if kind.holds != "adapters":',
         "kind = kind_at(path)\n    if False:"),
        ("adapters of any model", "if weight is None or weight.shape != shape:", "if False:"),
    ],
    ("weights/open.py", "tests/launch/test_convert.py"): [
        ("LoRAs in an autoencoder", 'if loras and weights.kind.holds != "model":', "if False:"),
        ("only the last of several LoRAs", "for lora, scale in loras:\n        assert",
         "for lora, scale in loras[-1:]:\n        assert"),
    ],
    ("training/starting.py", "tests/weights/test_matrix.py"): [
        ("8 bits rounded before training", 'exact=model.param_dtype == "float32",', ""),
    ],
    ("weights/places.py", "tests/weights/test_matrix.py"): [
        ("pipelines of any class", "if name not in PIPELINES:", "if False:"),
        ("a pipeline without its autoencoder", '(("vae", "autoencoder")', '(("autoencoder",)'),
    ],
    ("weights/kinds.py",
     "tests/weights/test_matrix.py::test_what_is_only_recognised_says_so_in_every_use"): [
        ("other models unseen", "if _has(marks, tensors):", "if False:"),
        ("other adapters unseen", "filter(None, map(other_adapter, tensors.shapes))", "()"),
    ],
    ("weights/kinds.py", "tests/weights/test_kinds.py"): [
        ("older LoRAs of diffusers", "lora(_linear_layer)?", "lora_linear_layer"),
    ],
    ("weights/diffusers_folder.py", "tests/launch/test_convert.py"): [
        ("folders of any class", "if kind not in (TRANSFORMER, FLUX, AUTOENCODER):", "if False:"),
    ],
    ("weights/run/base.py", "tests/launch/test_edit_weights.py"): [
        ("a base that is gone", "if not source or not epath.Path(source).exists():",
         "if not source:"),
    ],
    ("weights/run/reader.py", "tests/launch/test_edit_weights.py"): [
        ("parameters for an average", 'if self._ema and "ema" not in about.arrays:',
         'if False:'),
    ],
    ("weights/lora/merging.py", "tests/launch/test_edit_weights.py"): [
        ("strength that is no number", "if not math.isfinite(scale):", "if False:"),
    ],
    ("editing/loading.py", "tests/launch/test_edit_weights.py"): [
        ("editor without the base", "base=base and model_path(base),", "base=None,"),
        ("editor without the average", "        ema=ema,\n", ""),
    ],
    ("conditioning/encoder.py", "tests/editing/test_forms.py"): [
        ("variants of an index missing", "if weights and not indices(folder):", "if weights:"),
    ],
    ("weights/flux.py", "tests/weights/test_flux.py"): [
        ("text layers always taken", "(how.fresh_text and n.startswith(TEXT))", "False"),
        ("guidance left in", "changes: dict = dict.fromkeys(left_over)", "changes: dict = {}"),
        ("another seed", "nnx.Rngs(seed)", "nnx.Rngs(0)"),
    ],
    ("weights/save.py", "tests/weights/test_load.py"): [
        ("sizes not written", "if fields or sizes != release:", "if fields:"),
        ("config.json beside with other values", "if one != other:", "if False:"),
        ("written unseen", "write_safetensors(path, Finite(tensors, path))\n    if fields",
         "write_safetensors(path, tensors)\n    if fields"),
    ],
    ("weights/run/writer.py", "tests/weights/run/test_writer.py"): [
        ("blocks of two dtypes", "if tensors.dtypes[other] != tensors.dtypes[first]:",
         "if False:"),
        ("blocks one over another", "layer = part.layer or 0", "layer = 0"),
        ("places of blocks not noted", 'fingerprint_of(block, [layer], array["shape"])',
         'fingerprint_of(block, [0], array["shape"])'),
        ("a full disk as a crash", "if (reason := why_not_written(e)) is None:", "if True:"),
    ],
    ("training/checkpoint/checkpoints.py", "tests/weights/run/test_writer.py"): [
        ("weights taken for a run", "if WEIGHTS in about.arrays:", "if False:"),
    ],
    ("weights/run/reader.py", "tests/weights/run/test_reader.py"): [
        ("bits not compared block by block", 'if not same(about, {**about, "fingerprint": bits}):',
         "if False:"),
        ("the newest checkpoint alone", "for step in steps:", "for step in steps[:1]:"),
        ("older weights without a word", "self._say(f", "str(f"),
        ("files that went as a crash", "except ValueError as e:", "except ZeroDivisionError as e:"),
        ("layers in one place", "0 if layer is ... else layer * size", "0"),
        ("cut rows in the first place", "offset=i * row", "offset=0"),
        ("cut columns in the first place", "mapped[index[1:]] = part",
         "mapped[tuple(slice(0, n) for n in part.shape)] = part"),
    ],
    ("weights/run/reader.py", "tests/weights/run/test_damage.py"): [
        ("arrays of another config", "if saved.keys() != parameters.keys():", "if False:"),
    ],
    ("weights/run/reader.py", "tests/weights/test_open.py"): [
        ("parameters for their average", 'return "ema" if self._ema else about.trained',
         "return about.trained"),
        ("an average that is not there", 'if self._ema and "ema" not in about.arrays:',
         "if False:"),
    ],
    ("weights/run/base.py", "tests/weights/test_open.py"): [
        ("base where it was", "str(given or run.description.start_from)",
         "str(run.description.start_from)"),
    ],
    ("weights/run/base.py", f"{LORA}::test_adapters_without_a_base_take_the_one_that_is_given"): [
        ("base of a LoRA of others", "if not description.base:", "if False:"),
    ],
    ("weights/run/base.py", "tests/weights/run/test_base.py"): [
        ("the base's blocks in one place", "fingerprint_of(block, [layer], shape)",
         "fingerprint_of(block, [0], shape)"),
    ],
    ("weights/open.py", "tests/weights/test_open.py"): [
        ("base as it is stored", "Cast(below.tensors, np.dtype(jnp.dtype(model.param_dtype)))",
         "below.tensors"),
        ("base not compared", "return CheckedFirst(tensors, partial(check_base, run, tensors))",
         "return tensors"),
        ("exact sums rounded", "{f\"{module}.weight\": np.dtype(np.float32) for module in modules}",
         "{}"),
        ("8 bits always as bfloat16", 'as_numbers(file, "float32")', "as_numbers(file)"),
        ("8 bits not read", "rounded = as_numbers(file)\n", "rounded = file\n"),
        ("8 bits rounded before the sum", "_open_files(path, exact or bool(loras), sizes)",
         "_open_files(path, exact, sizes)"),
        ("sums of 8 bits in float32", "elif rounded is not None:", "elif False:"),
        ("average of a file", "elif ema:", "elif False:"),
        ("base of a file", "if base and not sums:", "if False:"),
        ("LoRAs of an autoencoder", 'if loras and weights.kind.holds != "model":', "if False:"),
        ("adapters of another model", "if weight is None or weight.shape != shape:", "if False:"),
        ("an autoencoder as the model", 'if weights.kind.holds == "autoencoder":', "if False:"),
    ],
    ("weights/open.py", "tests/weights/test_load.py"): [
        ("only the last LoRA", "for lora, scale in loras:", "for lora, scale in loras[-1:]:"),
    ],
    ("weights/load.py", "tests/weights/test_load.py"): [
        ("all in one dtype", "as_stored(params, model_table(config), weights.tensors.dtypes)",
         "params"),
    ],
    ("weights/places.py", "tests/weights/test_kinds.py"): [
        ("autoencoder of another program", '("vae", "autoencoder"), (', '("autoencoder",), ('),
        ("encoder of another program", '("text_encoder", "encoder"))', '("encoder",))'),
        ("parts behind a file", "path if path.is_dir() else path.parent", "path"),
    ],
    ("weights/places.py", "tests/weights/test_open.py"): [
        ("pipelines of other models", "if name not in PIPELINES:", "if False:"),
    ],
    ("editing/settings.py", "tests/editing/test_settings.py"): [
        ("sampling of a run forgotten", 'weights.settings.get("sampling", {})', "{}"),
        ("reading of a run forgotten", 'values = values.get("encoder", {})', "values = {}"),
        ("a run without the label", "values | stored_reading(values)", "values"),
        ("no section", "if not isinstance(values, dict):", "if False:"),
        ("text as long as was said", "config.text_length = weights.config.text_length", "pass"),
        ("reading of a run not written", "{n: getattr(encoder, n) for n in READING}", "{}"),
        ("sampling of a run not written", "sampling_to_json(sampling_of(weights)) |", "{} |"),
        ("prompts read in any way", "    config.validate()\n    if isinstance",
         "    if isinstance"),
    ],
    ("weights/run/stored_arrays.py", "tests/weights/run/test_reader.py"): [
        ("the first block alone", "yield from itertools.product(*cuts)",
         "yield next(itertools.product(*cuts))"),
        ("whole arrays", "chunk_byte_size = BLOCK_BYTES", "chunk_byte_size = None"),
        ("compressed", "use_compression = False", "use_compression = True"),
    ],
    ("weights/run/stored_arrays.py", "tests/weights/run/test_stored_arrays.py"): [
        ("blocks of any size", "while math.prod(sizes) * itemsize > BLOCK_BYTES:", "while False:"),
        ("all blocks under way", "while under_way and block", "while False and block"),
        ("writings waited for at once", "under_way.append((future, block.nbytes))",
         "future.result()"),
        ("writings that go on after an error", "future.exception()  # waits", "pass"),
        ("the last errors of writing", "            under_way.popleft()[0].result()\n    finally",
         "            under_way.popleft()[0].exception()\n    finally"),
        ("not read ahead", "while len(coming) > 1 and", "while coming and"),
        ("all read ahead", "for _, _, size in coming) > BLOCK_BYTES:",
         "for _, _, size in coming) > 1e99:"),
    ],
    ("weights/filling.py", "tests/weights/run/test_writer.py"): [
        ("tensors read for each part", "tensor[where])", "tensors.read(name)[where])"),
    ],
    ("weights/copying.py", "tests/weights/test_copying.py"): [
        ("cut rows one by one", " or near == view.ndim - 1:", ":"),
        ("small matrices one by one", "if view.shape[near] >= STRIPE:", "if True:"),
        ("all matrices at once", "if view.shape[near] >= STRIPE:", "if False:"),
    ],
    ("training/starting.py", f"{LORA}::test_adapters_of_other_settings_are_no_start"): [
        ("another alpha goes on", "if there != here:", "if False:"),
    ],
    ("files.py", "tests/launch/test_convert.py"): [
        ("folders on object stores", "    if is_remote(folder):\n        raise UserError(",
         "    if False:\n        raise UserError("),
    ],
    ("weights/info.py", "tests/launch/test_convert.py"): [
        ("LoRA described by its names alone",
         "settings = LoraFile(file.path, model_table(sizes)).settings",
         'raise UserError("no")'),
    ],
    ("weights/language_model.py", "tests/weights/layouts/test_qwen.py"): [
        ("lm_head wanted", "if name.startswith(UNUSED)", "if not name"),
    ],
    ("weights/layouts/qwen.py", MLLM): [
        ("heads inside out", "i, kernel, TO_HEADS)", "i, (k, heads, d), (2, 1, 0))"),
        ("heads outside in", "i, kernel, FROM_HEADS)", "i, (d, k, h), (2, 1, 0))"),
    ],
    ("sampling/schedule.py", "tests/test_golden.py::test_published_numbers[schedule.json]"): [
        ("mu at 4096", "(1.15 - 0.5)", "(1.16 - 0.5)"),
        ("shift inverted", "return s * t / (1 + (s - 1) * t)", "return t / (s - (s - 1) * t)"),
    ],
    ("sampling/config.py", "tests/sampling"): [
        ("truncation swapped", '"v1.0": 1.0, "v1.1": 0.93', '"v1.0": 0.93, "v1.1": 1.0'),
    ],
    ("weights/checks.py", "tests/weights"): [
        ("missing tensors", "for name in table if name not in shapes", "for name in ()"),
        ("unexpected tensors", "for name in shapes if name not in table", "for name in ()"),
        ("shapes not compared", "shapes[name] != entry.shape",
         "len(shapes[name]) != len(entry.shape)"),
        ("integers taken for weights", "if not jnp.issubdtype(dtype, np.floating)", "if False"),
        ("float16 as bfloat16", "set(dtypes) <= {np.dtype(jnp.bfloat16)}",
         "np.dtype(np.float32) not in set(dtypes)"),
    ],
    ("weights/layouts/official.py", DIT): [
        ("v turned too", "[turned[:2], x[2:]]", "[turned[:2], turned[2:]]"),
        ("turned the other way", "np.argsort(index) if inverse else index",
         "index if inverse else np.argsort(index)"),
        ("linear1 order", "qkv_kernel, mlp_kernel)", "mlp_kernel, qkv_kernel)"),
        ("linear2 order", "proj, mlp_out, axis=1)", "mlp_out, proj, axis=1)"),
        ("QK-norms not turned", "(0,), rotated=0", "(0,)"),
    ],
    ("weights/lora/merging.py", "tests/weights/lora/test_file.py"): [
        ("LoRA without alpha", "np.float32(strength * piece.scale)", "np.float32(strength)"),
        ("sum rounded to the base's dtype", "source.dtypes if dtypes is None else dtypes",
         "source.dtypes"),
        ("LoRA's rows not where they belong", "total[start : start + len(product)] +=",
         "total[: len(product)] +="),
    ],
    ("weights/lora/file.py", "tests/weights/lora/test_file.py"): [
        ("LoRA without rank", "return self.alpha / self.rank", "return self.alpha"),
        ("LoRA of other modules", "if name not in names:",
         "if name not in names:\n            return\n        if False:"),
        ("LoRA's half twice", "if half in one.keys:", "if False:"),
        ("LoRA's layer twice", "if one.rows.start + one.rows.size > other.rows.start:",
         "if False:"),
        ("LoRA's partner missing", "if DOWN not in one.keys or UP not in one.keys:", "if False:"),
        ("LoRA of integers", "if not jnp.issubdtype(dtype, jnp.floating):", "if False:"),
        ("LoRA's rank unbounded", "if not 0 < down[0] <= max(weight):", "if down[0] == 0:"),
        ("LoRA's settings not read", "return next(iter(found.values()), float(rank))",
         "return float(rank)"),
        ("LoRA's places contradict", "if len(set(found.values())) > 1:", "if False:"),
        ("LoRA of two adapters", "if self._adapter not in (None, adapter):", "if False:"),
        ("LoRA's layer that is off", "            if one.alpha\n        ]\n\n    def _up(",
         "        ]\n\n    def _up("),
        ("text encoder left out unasked", "if TEXT_ENCODER not in self._ignore:", "if False:"),
        ("LoRA of nothing", "if not self._stored:", "if False:"),
    ],
    ("weights/lora/settings.py", "tests/weights/lora/test_file.py"): [
        ("rank not compared", "if said is not None and said != rank:", "if False:"),
        ("rslora taken for plain", "alpha *= math.sqrt(rank)", "alpha *= 1"),
        ("changed base taken", ".startswith(CHANGED_BASE)", ".startswith(())"),
        ("settings of any file", "another = path.name != LORA_NAMES[0] and", "another = False and"),
        ("alphas of two names", "if len(set(found.values())) > 1:", "if False:"),
    ],
    ("weights/lora/name_patterns.py", "tests/weights/lora/test_name_patterns.py"): [
        ("patterns anywhere", 'if char == "." and not whole:', "if not whole:"),
        ("last pattern counts", "if i < first and _matches", "if _matches"),
    ],
    ("weights/finite.py", "tests/weights/files/test_safetensors_io.py"): [
        ("first numbers alone", "for i in range(0, len(bits), AT_ONCE):", "for i in (0,):"),
    ],
    ("weights/lora/file.py", "tests/weights/lora/test_writers.py"): [
        ("parts not joined again", "downs = [first.down] if shared else",
         "shared = False\n    downs ="),
        ("parts joined whose downs differ", "np.array_equal(piece.down, first.down)", "True"),
        ("fused alpha not adjusted", "first.alpha * len(down) / first.rank", "first.alpha"),
        ("part's alpha not adjusted", "alpha = piece.alpha * len(down) / piece.rank",
         "alpha = piece.alpha"),
        ("blocks not taken apart", "np.array_equal(blocks, np.eye(len(parts), dtype=bool))",
         "False"),
        ("fresh ups taken for blocks", "np.array_equal(blocks, np.eye(len(parts), dtype=bool))",
         "not np.any(np.array(blocks) & ~np.eye(len(parts), dtype=bool))"),
        ("parts of other strengths", "else piece.scale / first.scale", "else 1.0"),
    ],
    ("weights/lora/names.py", "tests/weights/lora/test_writers.py"): [
        ("rows not in diffusers' order", "sorted(moves, key=lambda move: move.there_at)", "moves"),
        ("LoRA cut at another width", "transformer_layout({weight: shape}, shape[1])",
         "transformer_layout({weight: shape}, shape[0] // 3)"),
    ],
    ("weights/lora/writers.py", "tests/weights/lora/test_writers.py"): [
        ("strength in the header alone", "_write(path, lora, scaled, halves,",
         "_write(path, lora, layers, halves,"),
        ("rank of any layer of that ending", '{f"^{name}": r for', "{name: r for"),
        ("PEFT's halves exchanged", "(DOWN, UP), (piece.down, piece.up)",
         "(UP, DOWN), (piece.up, piece.down)"),
    ],
    ("weights/files/fp8.py", "tests/weights/files/test_fp8.py"): [
        ("rows of 8-bit tensors", "stored = self.file.read(name, rows)",
         "stored = self.file.read(name)"),
        ("scale of 8-bit weights left out", "looked_up((numbers * scale)",
         "looked_up((numbers * 1)"),
        ("scales of the first rows", "scale if rows is None else scale[rows]",
         "scale[: len(stored)]"),
        ("8-bit weight without scale", "and name not in self._scales:", "and False:"),
        ("scale of no weight", "if weight not in self._stored:",
         "if weight not in self._stored:\n            return\n        if False:"),
        ("a scale for each block", "if math.prod(shape) != 1 and (", "if False and ("),
        ("scale beside a wide weight", "if (scale != 1).any():", "if False:"),
        ("other formats in the header", "for layer, settings in self._in_header().items():",
         "for layer, settings in ():"),
        ("other formats of a layer", "if not isinstance(stored, str) or stored not in STORED:",
         "if stored not in STORED:\n            return\n        if False:"),
        ("8-bit weights not divided", "quotients = numbers.astype(np.float32) / scale",
         "quotients = numbers.astype(np.float32)"),
        ("scale of e5m2", "/ LARGEST)\n", "/ 57344)\n"),
        ("too large for plain 8 bits", "if (largest := _largest(name, tensor)) > LARGEST:",
         "if False:"),
        ("not finite in 8 bits", "if not math.isfinite(largest):", "if False:"),
        ("looked up in the first piece only",
         "for i in range(0, len(index), LOOKED_UP_AT_ONCE):", "for i in (0,):"),
        ("all matrices in 8 bits", 'return in_block and name', "return name"),
    ],
    ("weights/lora/adapters.py", f"{GOLDEN_LORA} tests/weights/lora/test_adapters.py"): [
        ("adapters' rows not turned", "kernel.rotated if turned else None", "None"),
        ("v of adapters turned, too", "kernel.fused_qkv and turned", "False"),
        ("half of the layers", "if place in left:", "if False:"),
        ("alpha of the file ignored",
         "if (product.rank, product.alpha) != (lora.rank, lora.alpha):",
         "if product.rank != lora.rank:"),
        ("file with more than is wanted", "weights.keys() ^ file.shapes.keys()",
         "weights.keys() - file.shapes.keys()"),
    ],
    ("weights/lora/adapters.py", "tests/weights/lora/test_writers.py"): [
        ("rank of the first layer for all",
         "rank = max(product.rank for product in products.values())",
         "rank = next(iter(products.values())).rank"),
    ],
    ("weights/filling.py", "tests/weights/test_filling.py"): [
        ("columns read by each device", "wanted.setdefault(rows.tobytes(),",
         "wanted.setdefault(rows.tobytes() + bytes(len(wanted)),"),
        ("host keeps what is placed", "gc.collect(0)", "pass"),
        ("layers not counted from the box's", "part.layer - box[0].start", "part.layer"),
    ],
    ("weights/layouts/official.py", "tests/weights/test_filling.py"): [
        ("pairs cut before RoPE's turn", "whole = {self.rotated, 0 if", "whole = {None, 0 if"),
    ],
    ("weights/lora/merging.py", "tests/weights/test_filling.py"): [
        ("LoRA of other rows", "product[rows[here] - start]", "product[: here.sum()]"),
    ],
    ("weights/files/safetensors_io.py", "tests/weights/files/test_safetensors_io.py"): [
        ("not finite when it is read", "check_finite(array, name, self.path)", "pass"),
        ("twins in a header", "if len(result) < len(pairs):", "if False:"),
        ("shapes of any numbers", "type(n) is not int", "int(n) != float(n)"),
        ("order in the file", "(-RANK[np.dtype(dtypes[name])], name)", "name"),
        ("truncation", "if end != data_bytes:", "if end < data_bytes:"),
        ("each row by itself", "np.flatnonzero(np.diff(rows) != 1) + 1",
         "np.arange(1, len(rows))"),
        ("short readings", "if len(data) != end - begin:", "if not data:"),
    ],
    ("weights/quantizing.py", "tests/training/test_parts.py"): [
        ("base beside its 8 bits", "kernel.delete()", "pass"),
    ],
    ("weights/run/fingerprints.py", "tests/training/test_parts.py"): [
        ("base not described", 'about[dotted(path)] = describe({"": array})[""]', "del array"),
    ],
    ("data/pipeline.py", "tests/data/test_pipeline.py"): [
        ("shard off by one", "bisect.bisect_right", "bisect.bisect_left"),
        ("process slice", "[process_index::process_count]", "[::process_count]"),
        ("buckets shuffled alike", '"shuffle", number + i * len(buckets))', '"shuffle")'),
        ("no dropout", "die >= dropout", "die >= 0"),
        ("weights of data sets ignored", "mixture(manifests, config.weights)",
         "mixture(manifests)"),
        ("shards of the first data set", "ShardReader(self._folders[shard.source], shard)",
         "ShardReader(self._folders[0], shard)"),
        ("shapes that fill a batch named", "        if records < size:", "        if records:"),
        ("small pictures do not fill", "[config.batch_size * times for", "[config.batch_size for"),
        ("mixed whatever they were made with",
         "if not same_setting(name, there, first.get(name, there)):", "if False:"),
        ("processes drop alike", "dice[first : first + len(records)]", "dice[: len(records)]"),
        ("steps drop alike", '"caption_dropout", step)', '"caption_dropout")'),
        ("negatives not used", "else record.negative_text", "else record.text"),
        ("shuffle seed", '_stream(seed, "shuffle"', '_stream(0, "shuffle"'),
        ("lengths of the padding", "len(text) for text in texts]", "text_length for _ in texts]"),
        ("start_step ignored", "steps[start_step:]", "steps[0:]"),
        ("target is source", "record.target for record", "record.source for record"),
        ("any number of bad records", "if count > self._limit:", "if count > 100:"),
        ("pools drawn alike", "weights = [pool.share for pool in bucket]",
         "weights = [1 for pool in bucket]"),
    ],
    ("data/mixing.py", "tests/data/test_pipeline.py"): [
        ("rounds alike", '_stream(seed, "buckets", number)', '_stream(seed, "buckets")'),
        ("rates of records", "w / sum(weights) / max(n, 1)", "w / sum(weights)"),
        ("turns by records", "if manifest.sources[0].weight is None:", "if True:"),
        ("turns of equal batches", "* common // times", "* common"),
        ("shares of equal batches", "round(ROUND * share / times)", "round(ROUND * share)"),
        ("text takes no room", "2 * h * w // PATCH**2 + text_length", "2 * h * w // PATCH**2"),
        ("own weights lost", "source.name, whole * share if", "source.name, whole if"),
        ("dropout not raised", "return caption_dropout / fraction", "return caption_dropout"),
        ("fraction by records", "rates[shard.source] * shard.negatives",
         "shard.negatives / manifest.records"),
    ],
    ("data/records.py", "tests/data/test_records.py"): [
        ("newer records", "if version > SCHEMA_VERSION:", "if version > SCHEMA_VERSION + 1:"),
    ],
    ("data/manifest.py", "tests/data/test_shards.py"): [
        ("bad weights", "if weights and len(weights) < len(fields.sources):", "if False:"),
        ("unknown sources", "if not all(shard.source < len(fields.sources) for shard in shards):",
         "if False:"),
        ("newer manifests", "version > VERSION:", "version > VERSION + 1:"),
        ("counts changed by hand", "version > 2 and check != _check(shard)", "False"),
        ("a shard twice", "if len(set(names)) < len(names):", "if False:"),
        ("shards elsewhere", "if \"/\" in shard.file or", "if"),
        ("fingerprint without content", "content = shard.digest or", "content = \"\" or"),
    ],
    ("data/shards.py", "tests/data"): [
        ("longest text forgotten", "max(info.longest_text, record.longest_text)",
         "record.longest_text"),
        ("wrong bucket", "record.source.shape[:2] != tuple(info.latent_size)", "False"),
        ("failing disks are damage", "if failed := _SYSTEM_CALL.search(str(e)):",
         "if failed := None:"),
        ("negatives not compared", "(negative and not info.negatives)", "False"),
    ],
    ("data/buckets.py", "tests/data/test_buckets.py"): [
        ("nearest by difference", "abs(math.log(width / height * b[1] / b[0]))",
         "abs(width / height - b[0] / b[1])"),
    ],
    ("files.py", "tests/data/test_precompute.py"): [
        ("fingerprint without end", "f.seek(max(size - MIB, 0))", "f.seek(0)"),
    ],
    ("files.py", "tests/test_files.py"): [
        ("listings remembered", 'setdefault("use_listings_cache", False)',
         'setdefault("use_listings_cache", True)'),
        ("errors of stores let through", "        raise\n    except Exception as e:",
         "        raise\n    except ZeroDivisionError as e:"),
        ("put at every row", "now or time.monotonic() - self._put_at > BETWEEN_PUTS", "True"),
        ("objects told apart by size", '"size", "generation", "etag"', '"size"'),
        ("tried with a trace", "        probe.unlink(missing_ok=True)", "        pass"),
    ],
    ("data/local_copy.py", "tests/data/test_object_store.py"): [
        ("old copies kept", " and note.read_text() == wanted", ""),
        ("copied by every process", "fcntl.flock(file, fcntl.LOCK_EX)", "pass"),
        ("short copies taken", "if file_size(temporary) != shard.bytes:", "if False:"),
    ],
    ("data/chunks.py", "tests/data/test_object_store.py"): [
        ("listed leftovers read", "except MissingError:  # an object",
         "except OSError:  # an object"),
    ],
    ("data/chunks.py", "tests/data/test_precompute.py"): [
        ("hash without sizes", "json.dumps([row, lengths])", "json.dumps([row])"),
        ("all of the first source", "dataclasses.replace(shard, source=chunk.source)", "shard"),
        ("shards not looked at", "check_size(output / shard.file, shard)", "pass"),
    ],
    ("data/precompute.py", "tests/data/test_precompute.py"): [
        ("every process does all", "chunks[process_index::process_count], on_row",
         "chunks, on_row"),
        ("manifest without the others' chunks", "if missing := len(chunks) - len(manifests):",
         "if missing := 0:"),
    ],
    ("data/chunk_maker.py", "tests/data/test_precompute.py"): [
        ("manifest before shards",
         "replacing(manifest_path(self._output, chunk)) as manifest_file,\n"
         "            writing_shards(self._output, shard_prefix(chunk, changes)) as shards,",
         "writing_shards(self._output, shard_prefix(chunk, changes)) as shards,\n"
         "            replacing(manifest_path(self._output, chunk)) as manifest_file,"),
        ("last batch lost", "yield from waiting.values()", "yield from ()"),
    ],
    ("data/edit_loader.py", "tests/data/test_precompute.py"): [
        ("negatives for all", "draw(triplet) < self._negatives", "True"),
    ],
    ("data/batch_encoder.py", "tests/data/test_precompute.py"): [
        ("batches not filled up", "examples[-1:] * (self._batch_size - len(examples))", "[]"),
    ],
    ("data/batch_encoder.py", "tests/data/test_batch_encoder.py"): [
        ("negatives shifted", "None if edit.negative_prompt is None else next(rows)",
         "next(rows, None)"),
    ],
    ("data/model_output.py", "tests/data/test_model_output.py"): [
        ("texts not cut", "example[:length].astype", "example.astype"),
        ("moved for every row", "if self._fetched is None:", "if True:"),
    ],
    ("data/source_cache.py", "tests/data/test_source_cache.py"): [
        ("sources computed every time", "if e.source_hash not in self._values", "if True"),
        ("forgotten too early", "list(self._values)[: -self.LIMIT]", "list(self._values)[:-1]"),
        ("never forgotten", "list(self._values)[: -self.LIMIT]", "[]"),
    ],
    ("data/batch_writer.py", "tests/data/test_batch_writer.py"): [
        ("errors of the writer lost", "self._waiting.popleft().result()",
         "self._waiting.popleft() and []"),
        ("devices idle while one writes", "leave=IN_FLIGHT - 1", "leave=0"),
        ("clock stopped too early", "        batch.wait()\n", ""),
    ],
    ("data/idle_clock.py", "tests/data/test_idle_clock.py"): [
        ("idle while one runs", "if self._running == 0:", "if True:"),
    ],
    ("conditioning/encoder.py", "tests/conditioning/test_encoder.py"): [
        ("prefix not dropped", "jnp.asarray(states)[:, dropped : dropped + limit]",
         "jnp.asarray(states)[:, :limit]"),
        ("rubbish behind the end", "jnp.where(is_text[..., None], states, 0)", "states"),
        ("read twice", "{id(image): self.read(image) for image in {id(i): i for i in images}"
         ".values()}", "{id(image): self.read(image) for image in images}"),
    ],
    ("conditioning/encoder_jax.py", "tests/conditioning/test_encoder.py"): [
        ("a program for each shape", "(TOKENS,))", "(1,))"),
        ("batch not filled up", "filled = -(-b // parts) * parts", "filled = b"),
        ("whole model on each device", "elif mesh is not None:", "elif False:"),
    ],
    ("conditioning/processor.py", "tests/conditioning/test_encoder.py"): [
        ("limits of the folder", "**sizes, size=limits", "**sizes"),
        ("long and thin", 'raise UserError(\n                f"a picture',
         'raise KeyError(\n                f"a picture'),
    ],
    ("conditioning/processor.py", "tests/conditioning/test_model_files.py"): [
        ("settings not compared", "if given is not None and not _same(given, value):", "if False:"),
        ("newer files unread", "for name in (FILE, NEWER_FILE)", "for name in (FILE,)"),
    ],
    ("parallel/compile_cache.py", "tests/parallel/test_compile_cache.py"): [
        ("nothing is kept", 'update("jax_compilation_cache_dir", os',
         'update("jax_dump_ir_to", os'),
        ("a user's folder is not asked for", "if config.jax_compilation_cache_dir is None:",
         "if True:"),
        ("what compiles within a second is not kept", "        config.update("
         '"jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)\n', ""),
    ],
    ("editing/loading.py", "tests/test_package.py"): [
        ("a notebook compiles each time", "    keep_compiled()  #", "    #"),
    ],
    ("conditioning/processor.py", "tests/test_package.py"): [
        ("transformers is imported", "import numpy as np\n", "import numpy as np\n"
         "import transformers\n"),
    ],
    ("weights/run/reader.py", "tests/test_package.py"): [
        ("Orbax is imported for all", "if TYPE_CHECKING:\n", "if True:\n"),
    ],
    ("kernels/attention.py", "tests/test_package.py"): [
        ("the TPU's kernels are imported for all", "import os\n\n",
         "import os\n\nimport step1x_jax.kernels.attention_tpu\n"),
    ],
    ("models/autoencoder.py", "tests/models/test_layers.py"): [
        ("one tree for all", "jax.tree.map(lambda shape: shape, params)", "params"),
        ("a key that changes", "_abstract(dataclasses.replace(config))", "_abstract(config)"),
    ],
    ("conditioning/tokenizer.py", "tests/conditioning/test_model_files.py"): [
        ("truncation obeyed", "    tokenizer.no_truncation()\n", ""),
        ("padding obeyed", "    tokenizer.no_padding()\n", ""),
        ("ids without embeddings", "highest >= vocabulary:", "False:"),
        ("any pattern is run", "(pattern != PATTERN,", "(False,"),
        ("not read back", "if read_back != PROBE:", "if False:"),
    ],
    ("conditioning/colours.py", "tests/conditioning/test_colours.py"): [
        ("sideways", "return ImageOps.exif_transpose(image)", "return image.copy()"),
        ("profiles ignored", "if isinstance(profile, bytes) and profile and", "if False and"),
        ("hidden colours", 'Image.new("RGBA", image.size, "white")',
         'Image.new("RGBA", image.size, "black")'),
        ("deep pictures clipped", "if image.mode not in MODES:", "if False:"),
        ("sizes unchecked", "    check_size(*image.size, name)  #", "    #"),
        ("anything that Pillow opens", "and image.format in RUN_PROGRAMS:", "and False:"),
        ("metadata kept", "    image.info = {}", "    image.info = image.info"),
    ],
    ("conditioning/input_files.py", "tests/conditioning/test_images.py"): [
        ("addresses of the web", "if there and protocol not in STORES:", "if False:"),
        ("more than fits", "if status.st_size > limit:", "if False:"),
    ],
    ("models/mllm/positions.py", "tests/conditioning/test_published_mask.py"): [
        ("exclamation marks counted", "if not seen.all():", "if False:"),
        ("exclamation marks at 0", "UNSEEN_POSITION = 1 ", "UNSEEN_POSITION = 0 "),
        ("exclamation marks attended", "attended=padded != unseen_id)", "attended=padded >= 0)"),
    ],
    ("conditioning/prompt.py", "tests/conditioning/test_published_mask.py"): [
        ("no mask", '0 if quoting == "published" else None', "None"),
    ],
    ("conditioning/encoder.py", "tests/conditioning/test_stored_reading.py"): [
        ("older files without the label", '{"picture_label": True} | stored if', "stored if"),
    ],
    ("conditioning/cache.py", "tests/conditioning/test_cache.py"): [
        ("key without instruction", "[picture.size, instruction, self._settings]",
         "[picture.size, self._settings]"),
        ("key without settings", "[picture.size, instruction, self._settings]",
         "[picture.size, instruction]"),
        ("key without size", "[picture.size, instruction, self._settings]",
         "[instruction, self._settings]"),
        ("never makes room", "if total <= self._limit:", "if True:"),
        ("use not noted", "        path.touch()  # used just now\n", ""),
    ],
    ("data/forms.py", "tests/data/test_sources.py"): [
        ("half a form is enough", "if not missing_fields(form, names):",
         "if len(missing_fields(form, names)) < 3:"),
        ("names without suffix only", "else field + FILE_NAME", "else field"),
        ("several pictures at once", "if len(value) != 1:", "if not value:"),
        ("always the first phrasing", 'int.from_bytes(digest[:8], "big") % len(value)', "0"),
        ("phrasings by chance", "digest = hashlib.sha256(name.encode(errors=\"surrogatepass\"))",
         "digest = hashlib.sha256(__import__(\"os\").urandom(8))"),
        ("empty phrasings", "and text.strip() for", "for"),
        ("any list as phrasings", "if form.phrasings:", "if True:"),
        ("id of one field", 'for field in form.id if', 'for field in form.id[:1] if'),
    ],
    ("data/json_lists.py", "tests/data/test_sources.py"): [
        ("MagicBrush without folders", "images/{name.split('-')[0]}/{name}", "images/{name}"),
        ("InstructPix2Pix turned round", '"source": f"{seed}_0.jpg", "target": f"{seed}_1.jpg"',
         '"source": f"{seed}_1.jpg", "target": f"{seed}_0.jpg"'),
    ],
    ("data/sources.py", "tests/data/test_sources.py"): [
        ("metadata of InstructPix2Pix",
         '    ("prompt.json", instructpix2pix_rows),\n    ("metadata.jsonl", json_lines),',
         '    ("metadata.jsonl", json_lines),\n    ("prompt.json", instructpix2pix_rows),'),
        ("files in reverse", "sorted(found[pattern])", "sorted(found[pattern], reverse=True)"),
        ("hidden files", '[name for name in names if not name.startswith(".")]', "list(names)"),
        ("rows named by the file alone", "file.relative_to(path).as_posix()", "file.name"),
        ("stamps of pictures kept", "return _stamp(path) if", "return _file_stamp(path) if"),
    ],
    ("data/sources.py", "tests/data/test_odd_files.py"): [
        ("own files read", "if _is_made(folder, names):", "if False:"),
        ("root ignored", "file.parent if root is None else epath.Path(root)", "file.parent"),
        ("bytes in names", "label = printable(", "label = str("),
    ],
    ("data/paths.py", "tests/data/test_odd_files.py"): [
        ("links not followed", "                linked += [", "                [] + ["),
        ("folders twice", "if real in seen:", "if False:"),
    ],
    ("data/forms.py", "tests/data/test_odd_files.py"): [
        ("pictures in JSON", "or _BASE64.match(value):", "or False:"),
        ("web addresses in lists", "if rest and scheme not in STORES:", "if False:"),
    ],
    ("data/json_lists.py", "tests/data/test_odd_files.py"): [
        ("half characters", "    except UnicodeEncodeError as e:",
         "    except UnicodeEncodeError as e:\n        return row"),
    ],
    ("data/paths.py", "tests/data/test_changed_pictures.py"): [
        ("times that programs set", " {status.st_ctime_ns}", ""),
    ],
    ("data/identity.py", "tests/data/test_changed_pictures.py"): [
        ("unreadable for ever", '"" if UNREADABLE in digests else stamp', "stamp"),
    ],
    ("data/chunks.py", "tests/data/test_changed_pictures.py"): [
        ("contents not compared", "if now.digest != pictures.digest:", "if False:"),
        ("copies made again", "if now.digest != pictures.digest:", "if True:"),
        ("copies read every time", "if mine and now != pictures:", "if False:"),
        ("all pictures gone", "missing == 2 * len(one.triplets):", "False:"),
        ("shards replaced", 'f"{chunk.name}-{changes}" if changes else chunk.name', "chunk.name"),
    ],
    ("data/batch_writer.py", "tests/data/test_changed_pictures.py"): [
        ("NaN stored", "if problem := record.not_finite():", "if problem := None:"),
    ],
    ("data/edit_loader.py", "tests/data/test_changed_pictures.py"): [
        ("little kept", "kept_part(image.size, bucket)) < self._min_kept:",
         "kept_part(image.size, bucket)) < 0.0:"),
    ],
    ("conditioning/prompt.py", "tests/conditioning/test_prompt.py"): [
        ("always the label", "if picture_label else", "if True else"),
        ("one position more", 'CHAT_START.removesuffix(":")', "CHAT_START"),
        ("placeholders let through", "if self.image_id in ids or self._video_id in ids:",
         "if self.image_id in ids:"),
        ("apostrophes are no quotes", "fromkeys(\"“”'\"", 'fromkeys("“”"'),
    ],
    ("conditioning/images.py", "tests/conditioning/test_images.py"): [
        ("height rounded down", "math.ceil(new_width / ratio)", "math.floor(new_width / ratio)"),
        ("pixels from 0", "/ 127.5 - 1", "/ 255"),
    ],
    ("editing/recipe.py", "tests/editing/test_recipe.py"): [
        ("notes from the network", "if is_remote(user_path(path)):", "if False:"),
        ("seeds of notes unchecked", "        check_seed(int(recipe.seed))\n", ""),
        ("a moved picture is another", 'dataclasses.replace(value, path="") if', "value if"),
        ("home folders in notes", 'path = "~" + path[len(home) :]', "pass"),
        ("home folders of others", "path.startswith(home + os.sep)", "path.startswith(home)"),
        ("other bases are other recipes", '_NOT_COMPARED = ("base", "made_with")',
         '_NOT_COMPARED = ("made_with",)'),
    ],
    ("editing/output_files.py", "tests/editing/test_recipe.py"): [
        ("notes of any length", "if note and len(note) <= LARGEST_NOTE:", "if note:"),
        ("comments of others taken", "values.get(NOTE) if isinstance(values, dict) else None",
         "values.get(NOTE)"),
        ("notes of strangers of any length", "0 < len(note) <= LARGEST_NOTE", "0 < len(note)"),
        ("sizes of formats ignored", "if size and max(size) >", "if False and max(size) >"),
    ],
    ("conditioning/picture_row.py", "tests/conditioning/test_picture_row.py"): [
        ("boxes for letters", "return own if not unknown(own) else", "return own if True else"),
        ("result on the left", "page.paste(picture, (left, margin))",
         "page.paste(picture, (margin, margin))"),
        ("long texts not cut", "if len(lines) > MOST_LINES:", "if False:"),
    ],
    ("editing/fingerprints.py", "tests/editing/test_fingerprints.py"): [
        ("fingerprint of a run's folder", "    if is_run(path):\n", "    if False:\n"),
        ("LoRAs without strength", "weights_fingerprint(user_path(path)), strength)",
         "weights_fingerprint(user_path(path)))"),
    ],
    ("editing/published.py", "tests/editing/test_checking.py"): [
        ("every case as published", "if case[1] != case[2]]", "if False]"),
        ("times of any size", "if np.abs(times - expected).max() <= ROUNDING", "if True"),
        ("ids of any vocabulary compared", "if vocabulary < one.vocabulary:", "if False:"),
        ("ids not compared", "if vocabulary < one.vocabulary:", "if True:"),
        ("prompts without their picture", "*[one.picture] * tokens, *after]", "*after]"),
    ],
    ("editing/checking.py", "tests/editing/test_checking.py"): [
        ("tensors left over", "if tensors.shapes.get(tensor) != expected.get(tensor)",
         "if tensor not in tensors.shapes"),
        ("tensors missing", "if tensors.shapes.get(tensor) != expected.get(tensor)",
         "if tensor not in expected"),
        ("counts of the release ignored", "if not released:", "if True:"),
        ("sums not compared", "if not known or found in", "if True or found in"),
        ("sums of the first piece", "while data := f.read(CHUNK):", "if data := f.read(CHUNK):"),
        ("numbers not read", "                part.tensors.read(tensor)\n",
         "                pass\n"),
        ("a missing part ends it", "NOT_COMPARED, missing)\n            continue",
         "NOT_COMPARED, missing)\n            return"),
        ("compilation timed", "seconds = min(b - a", "seconds = max(b - a"),
        ("any autoencoder", "if psnr >= LEAST_PSNR:", "if True:"),
        ("damage ends it", 'findings.append(Finding("model", DIFFERS, str(e)))', "raise"),
    ],
    ("../launch/edits/check.py", "tests/launch/test_edit_check.py"): [
        ("differences are success", "        return ERROR\n", "        return 0\n"),
        ("nothing to report", "    if counts[DIFFERS]:", "    if False:"),
    ],
    ("evaluation/tables.py", "tests/evaluation/test_datasets.py"): [
        ("pictures outside of a data set", "if not stays_inside(value):", "if False:"),
        ("one of several splits", "len(splits) != 1 or", ""),
        ("any list of lines", "name == LIST if", "True if"),
    ],
    ("evaluation/datasets.py", "tests/evaluation/test_datasets.py"): [
        ("any column", "if missing or others:", "if False:"),
        ("rows that are no samples left out", 'bad_rows.append(f"{row}: {e}")', "pass"),
        ("samples twice", "if n > 1]", "if n > 9]"),
        ("one file for two samples", 'if benchmark.layout == "flat":', "if False:"),
        ("keys that lead elsewhere", 'if field in ("task", "key") and not is_name(value):',
         "if False:"),
        ("a limit takes the first ones", "for *_, number in sorted(order)[:limit]",
         "for *_, number in order[:limit]"),
        ("zh is a language", "return LANGUAGES.get(language, language)", "return language"),
    ],
    ("evaluation/method_pictures.py", "tests/evaluation/test_method_pictures.py"): [
        ("any of two pictures", "if len(files) > 1:", "if False:"),
        ("other files are pictures", "if file.suffix.lower() in endings:", "if True:"),
    ],
    ("evaluation/generate.py", "tests/evaluation/test_generate.py"): [
        ("noise of the seed alone", 'digest = _digest(f"{seed}", sample)',
         'digest = hashlib.sha256(f"{seed}".encode()).digest()'),
        ("noise without the seed", 'digest = _digest(f"{seed}", sample)',
         'digest = _digest("", sample)'),
        ("shares by place", "mine = {sample.id for sample in order[host::hosts]}",
         "mine = {sample.id for sample in samples[host::hosts]}"),
        ("damaged pictures stay", 'and look_at(path).status == "readable"', ""),
        ("other settings go on", "if before.get(name) != now.get(name):", "if False:"),
        ("one failure ends it", "except Exception as e:", "except UserError as e:"),
        ("failures of before stay", "path.unlink(missing_ok=True)", "pass"),
    ],
    ("evaluation/statistics.py", "tests/evaluation/test_statistics.py"
     " tests/test_golden.py::test_published_numbers[gedit_statistics.json]"): [
        ("mean of two for the lower", "(min(numbers[name]) for name in",
         "(sum(numbers[name]) / len(numbers[name]) for name in"),
        ("samples count the same", 'None if benchmark.mean_of == "tasks" else counts', "counts"),
        ("average over ten tasks", "if tasks and not empty:", "if tasks:"),
        ("failures of the judge unmarked", "if status not in WITHOUT_PICTURE)",
         "if status in WITHOUT_PICTURE)"),
        ("an interval of one sample", "if len(one) > 1\n", "if len(one)\n"),
        ("tasks drawn alike", "default_rng([SEED, number])", "default_rng([SEED])"),
        ("90 % for 95", "INTERVAL = (2.5, 97.5)", "INTERVAL = (5, 95)"),
        ("the first repeat alone", "if len(values) == 1 else np.mean(values, axis=0)", ""),
    ],
    ("evaluation/comparison.py", "tests/evaluation/test_comparison.py"): [
        ("not the same samples", "others[one.id]) for one in first if",
         "next(iter(others.values()))) for one in first if"),
        ("smallest disagreements first", "(-abs(_gap(pair)), pair[0].id)",
         "(abs(_gap(pair)), pair[0].id)"),
    ],
    ("evaluation/judging/parsing.py", "tests/evaluation/judging/test_parsing.py"): [
        ("numbers beyond the scale", "if not question.lowest <= number <= question.highest:",
         "if False:"),
        ("true is 1", "if isinstance(number, bool) or not", "if not"),
        ("any count of numbers", "if len(scores) != question.numbers or not all",
         "if not all"),
        ("one number is enough", "if accept_single and len(scores) == 1:", "if len(scores) == 1:"),
        ("halves where there are none", "return not question.whole or", "return True or"),
        ("numbers in a mended reply alone", 'return f"[{value}]"', "return value"),
    ],
    ("asking/replies.py", "tests/asking/test_replies.py"): [
        ("the first thought counts", 'text.rpartition("</think>")[2]',
         'text.partition("</think>")[2]'),
        ("objects in backticks are none", "_unfenced(strip_reasoning(text))",
         "strip_reasoning(text)"),
    ],
    ("asking/cache.py", "tests/evaluation/judging/test_presets.py"): [
        ("stored replies under other keys", "json.dumps(values, sort_keys=True, allow_nan=False)",
         "json.dumps(values, sort_keys=True, allow_nan=False, ensure_ascii=False)"),
    ],
    ("asking/cache.py", "tests/asking/test_cache.py"): [
        ("stored replies of another form", "line = _Line(key, id, asked, reply)",
         "line = _Line(key, id, reply.model, reply)"),
        ("half a line stays", "os.ftruncate(descriptor, end)", "pass"),
        ("repeats are one question", '"repeat": ask.repeat,', ""),
        ("pictures are alike", '["picture", part.fingerprint]', '["picture"]'),
        ("any model", "if reply.model and reply.model != before:", "if False:"),
        ("two runs in one file", 'with exclusive(path.parent / f"{NAME}.lock", message):',
         "with contextlib.nullcontext():"),
        ("late replies are written", "if self._descriptor is None:", "if False:"),
    ],
    ("asking/ask.py", "tests/asking/test_ask.py"): [
        ("kept replies are no attempts", "for number in range(len(kept), limits.max_attempts):",
         "for number in range(limits.max_attempts):"),
        ("equal questions are asked at once", "if key in twins:", "if False:"),
        ("nobody is there, go on", "if silent >= MOST_SILENT:", "if False:"),
        ("hopeless questions again", "if not e.again:", "if False:"),
        ("a wait for one", "pace.hold(e.wait, str(e))", "pass"),
        ("the last kept reply decides", "for number in range(len(replies)):",
         "for number in range(len(replies))[-1:]:"),
    ],
    ("asking/pace.py", "tests/asking/test_ask.py"): [
        ("as fast as it goes", "self._next = slot + self._gap", "self._next = slot"),
        ("waits without bound", ", longest) * random", ", 1e9) * random"),
        ("waits a day", "if seconds > self._longest:", "if False:"),
    ],
    ("asking/pool.py", "tests/asking/test_chat.py"): [
        ("others begin after the end", "                self._stopping.set()  # nobody",
         "                pass  # nobody"),
    ],
    ("asking/chat.py", "tests/asking/test_chat.py"): [
        ("the key goes anywhere", 'if preset.endpoint == OPENAI else "")', 'if True else "")'),
        ("the key in a message", "return body.replace(self._key.encode(), b\"...\") if self._key",
         "return body if self._key"),
        ("a drop now and then is in time", "if time.monotonic() > until:", "if False:"),
        ("filters speak for the model", "or end.lower() in _FILTERED", ""),
        ("the same seed again", "+ SEEDS_APART * ask.repeat + attempt", ""),
    ],
    ("asking/failures.py", "tests/asking/test_chat.py"): [
        ("no money, ask on", "if status == 402 or not set(failure.codes).isdisjoint(_NO_MONEY):",
         "if status == 402:"),
        ("parameters that are refused", "if status < 500 and failure.parameter in sent:",
         "if False:"),
        ("an hour for a second", "return None if math.isnan(seconds) else max(seconds, 0.0)",
         "return seconds"),
    ],
    ("evaluation/judging/prompts.py", "tests/evaluation/judging/test_prompts.py"): [
        ("bytes are texts", "            and isinstance(statement.value.value, str)\n", ""),
        ("what is put in is looked at", "return _PLACE.sub(value, text)",
         "return _PLACE.sub(value, _PLACE.sub(value, text))"),
    ],
    ("evaluation/judging/pictures.py", "tests/evaluation/judging/test_pictures.py"): [
        ("sides rounded", "return max(int(exact), 1)", "return max(round(exact), 1)"),
    ],
    ("asking/pictures.py", "tests/asking/test_pictures.py"): [
        ("smaller pictures grow", "min(LONGEST_SIDE / max(size), 1)", "LONGEST_SIDE / max(size)"),
        ("sizes are alike", 'how = f"{size[0]}x{size[1]} ', 'how = f"'),
    ],
    ("evaluation/judging/judge_run.py", "tests/evaluation/judging/test_judge_run.py"): [
        ("other samples go", "[one for one in earlier if one.id not in chosen]", "[]"),
        ("any source", "sample.pictures[run.source]()", "next(iter(sample.pictures.values()))()"),
    ],
    ("evaluation/judging/facts.py", "tests/evaluation/judging/test_judge_run.py"): [
        ("other settings in one table", "if there.get(name) != settings[name]:", "if False:"),
    ],
    ("evaluation/judging/questions.py", "tests/evaluation/judging/test_judge_run.py"): [
        ("text first for all", 'if self._preset.order == "pictures"', "if False"),
        ("thoughts count", "if self._preset.strip_reasoning:", "if False:"),
        ("the other picture", 'if protocol == "area512" and', 'if protocol != "area512" and'),
    ],
    ("evaluation/report.py", "tests/evaluation/test_report.py"): [
        ("a judge's failure is not had", "if one.returned}", "if one.scores is not None}"),
        ("complete without an average", "or not summary.average.means", ""),
        ("the intersection is all", "[one for one in ones if one.intersection]", "list(ones)"),
    ],
    ("evaluation/score_csv.py", "tests/evaluation/test_score_csv.py"): [
        ("blank is outside", 'flag not in ("false", ', 'flag not in ("", "false", '),
        ("eleven of ten", "and 0 <= x <= 10 for x", "for x"),
        ("scores of before replaced", "if is_file(place / ROWS):", "if False:"),
    ],
    ("evaluation/pages.py", "tests/evaluation/study/test_build.py"): [
        ("text ends its element", 'for char in "<>&\\u2028\\u2029":', 'for char in "":'),
    ],
    ("evaluation/places.py", "tests/evaluation/test_places.py"): [
        ("links lead inside", "os.path.realpath(path), os.path.realpath(folder)",
         "os.path.abspath(path), os.path.abspath(folder)"),
    ],
    ("evaluation/study/secret.py", "tests/evaluation/study/test_dealing.py"): [
        ("words run together", "json.dumps(about).encode()", '"".join(about).encode()'),
        ("names without the secret", "hmac.digest(self.seed,", "hmac.digest(bytes(32),"),
    ],
    ("evaluation/study/dealing.py", "tests/evaluation/study/test_dealing.py"): [
        ("everyone starts at the same sample", "circle[(number * each + i)", "circle[(i)"),
        ("tasks one after another", "places += [((i + offset) / len(members), id)",
         "places += [(len(places), id)"),
        ("one order for all", '"order", str(number))', '"order")'),
        ("samples that nobody rates", "if participants * each < len(ids):", "if False:"),
    ],
    ("evaluation/study/build.py", "tests/evaluation/study/test_build.py"): [
        ("methods in order", 'order = secret.shuffled(by_name, "pictures", participant)',
         "order = list(by_name)"),
        ("times of writing stay", "        _hide_times(temporary)\n", ""),
        ("the key inside", "if is_inside(key_path, folder):", "if False:"),
        ("pictures stretched", "if max(ratio, 1 / ratio) <= SAME_SHAPE:", "if True:"),
        ("samples without a picture", "return results if len(results) == len(methods) else None",
         "return results or None"),
    ],
    ("evaluation/study/answers.py", "tests/evaluation/study/test_score.py"): [
        ("any study", "if export.study != key.study:", "if False:"),
        ("pictures that were not dealt", "    if unknown:\n", "    if False:\n"),
        ("the earliest counts", "last = max(files,", "last = min(files,"),
        ("one of two at random", "one.exported == other.exported and", "False and"),
    ],
    ("evaluation/study/score.py", "tests/evaluation/study/test_score.py"): [
        ("1 to 5", "POINTS = 2.0", "POINTS = 1.0"),
        ("who rates more counts more", "means[i, j] = POINTS * float(np.mean(ratings))",
         "means[i, j] = POINTS * float(np.sum(ratings))"),
        ("average over rated tasks", "if tasks and rated.all() else None", "if tasks else None"),
        ("intersection is all", 'subset == "intersection" and not sample.intersection', "False"),
        ("resamples without a task", "len(defined) < FEWEST_DEFINED", "len(defined) < 0"),
    ],
    ("evaluation/deidentify/findings.py", "tests/evaluation/deidentify/test_scan.py"): [
        ("boxes anywhere", "if not (box.x0 < box.x1 <= picture.width", "if False and (True"),
    ],
    ("evaluation/deidentify/detectors.py", "tests/evaluation/deidentify/test_scan.py"): [
        ("large pictures only", "FACE_SIZES = (512, 2048)", "FACE_SIZES = (2048,)"),
        ("a face twice", "if all(_overlap(box, other) < SAME_FACE for other in kept):", "if True:"),
        ("without a margin", "MARGIN = 0.1", "MARGIN = 0.0"),
        ("plates that are none", "or not all(map(math.isfinite, one))", ""),
    ],
    ("evaluation/deidentify/look_alikes.py", "tests/evaluation/deidentify/test_scan.py"): [
        ("mirrored copies missed", "np.minimum(*pair) for", "pair[0] for"),
        ("copies behind others", "colour, ranks, ~same]", "colour, ranks]"),
        ("colours alone", "ranks = _ranks(colour) + _ranks(edges)", "ranks = _ranks(edges)"),
        ("signed edges", "% np.pi / np.pi * EDGE_BINS", "% np.pi / np.pi * 1"),
    ],
    ("evaluation/deidentify/metadata.py", "tests/evaluation/deidentify/test_scan.py"): [
        ("positions missed", 'found.append("GPS position")', "pass"),
    ],
    ("evaluation/deidentify/scan.py", "tests/evaluation/deidentify/test_scan.py"): [
        ("each sample looked at", "if digest in pictures:", "if False:"),
    ],
    ("evaluation/deidentify/decisions.py", "tests/evaluation/deidentify/test_export.py"): [
        ("others' decisions", "if one.scan != findings.scan:", "if False:"),
        ("the last of two", "merged[digest][1] != decision", "False"),
        ("boxes outside", "if not (box.x0 < box.x1 <= picture.width", "if False and (True"),
    ],
    ("evaluation/deidentify/redact.py", "tests/evaluation/deidentify/test_export.py"): [
        ("blur that can be undone", "CELLS = 4", "CELLS = 16"),
        ("a blur sees what is filled", "means = filled.crop(place)", "means = picture.crop(place)"),
    ],
    ("evaluation/deidentify/export.py", "tests/evaluation/deidentify/test_export.py"): [
        ("what was dropped goes out", 'if decision.action == "drop":', "if False:"),
        ("keys as they were", "return hmac.digest(bytes.fromhex(secret), key.encode(), "
         "hashlib.sha256).hex()[:32]", "return key"),
        ("instructions as they were", '"instruction": text,', '"instruction": sample.instruction,'),
        ("the file itself goes out", 'picture.save(stream, "PNG")',
         'picture.save(stream, "PNG", exif=b"Exif\\0\\0MM\\0*\\0\\0\\0\\x08\\0\\0Anna")'),
        ("the log inside", "if is_inside(audit, folder):", "if False:"),
        ("another instruction", "if sample.instruction != request.instruction:", "if False:"),
    ],
    ("evaluation/deidentify/review.py", "tests/evaluation/deidentify/test_export.py"): [
        ("another picture", "if hashlib.sha256(data).hexdigest() != found.digest:", "if False:"),
        ("another look-alike", "if hashlib.sha256(data).hexdigest() != one.digest:", "if False:"),
        ("look-alikes anywhere", "if not stays_inside(one.file):", "if False:"),
    ],
    ("evaluation/deidentify/audit_log.py", "tests/evaluation/deidentify/test_audit_log.py"): [
        ("the chain not followed", 'entry.get("previous") != head', "False"),
        ("cut entries", "    if lines.pop():\n", "    if not lines:\n"),
        ("half an entry stays", "os.ftruncate(log, before)", "pass"),
    ],
    ("evaluation/reference.py", "tests/evaluation/test_reference.py"): [
        ("root of L2", "return float(((a - b) ** 2).mean())",
         "return float(((a - b) ** 2).mean() ** 0.5)"),
        ("infinity in a mean", "if math.isfinite(v)]", "]"),
        ("average without a task", "if len(there) == len(means):", "if there:"),
        ("samples count alike", 'there if mean_of == "tasks" else every', "every"),
    ],
    ("data/paths.py", LISTS): [
        ("lists lead anywhere", 'or ".." in pure.parts', "or False"),
        ("lists at the root", "or pure.is_absolute()", ""),
    ],
    ("../launch/edits/rows.py", f"{LISTS} {REFUSED} {MANY}::test_all_pictures_of_a_folder"
     f" {MANY}::test_rows_have_settings_of_their_own"): [
        ("the root ignored", "place.parent if root is None else", "place.parent if True else"),
        ("hidden pictures", '"[!.]*"', '"*"'),
        ("first instruction for all", "    if len(values) != count:", "    if False:"),
    ],
    ("../launch/edits/plan.py", f"{LISTS} {REFUSED} {EDIT} {RESUMED} {MASKS}"
     f" {MANY}::test_rows_have_settings_of_their_own"): [
        ("results replaced unasked", "if others and not overwrite:", "if False:"),
        ("results of other settings stay", "            missing.append(job)\n        if different:",
         "            pass\n        if different:"),
        ("all made again", "if is_file(job.output) else None", "if False else None"),
        ("two results of one name", "        if name in taken:", "        if False:"),
        ("sources overwritten", "if _identity(os.fspath(job.output)) in read:", "if False:"),
        ("hard links overwritten", "return status.st_dev, status.st_ino",
         "return os.path.realpath(path)"),
        ("row's steps ignored", "steps=common.steps if row.steps is None else row.steps",
         "steps=common.steps"),
        ("masks not noted", 'mask=noted_file(row.mask, "a mask") if row.mask else None',
         "mask=None"),
    ],
    ("../launch/edits/making.py", f"{FAILING} {MASKS} {MANY}::test_like_makes_the_same_picture"): [
        ("one failure ends all", "                if report is None:\n                    raise",
         "                raise"),
        ("failures are success", "return SOME_FAILED", "return 0"),
        ("settings not noted", "edited, to_note(recipe))", "edited)"),
        ("mask not given on", "mask=job.row.mask,\n", "mask=None,\n"),
        ("truncation not given on", "        truncate=recipe.truncate,\n", ""),
    ],
    ("../launch/edits/report.py", f"{FAILING} {RESUMED}"): [
        ("reports forget", "        if is_file(self.path):", "        if False:"),
        ("reports of the last alone", "for one in self._lines.values())",
         "for one in [*self._lines.values()][-1:])"),
    ],
    ("../launch/edit.py", f"{REFUSED} {RESUMED} {MANY}::test_like_makes_the_same_picture"
     f" {MANY}::test_like_with_another_source_or_other_weights_is_said"): [
        ("like over flags", "if not flags.FLAGS[name].present:", "if True:"),
        ("one file replaced unasked", "if is_file(place) and not _OVERWRITE.value:", "if False:"),
        ("loaded for nothing", "        if not todo:\n            return 0\n", ""),
        ("like's truncation forgotten", '        "truncate": like.truncate,\n', ""),
        ("other files unsaid", "if name in FILES]", "if False]"),
    ],
    ("editing/editor.py", "tests/editing"): [
        ("filters of the releases", '"v1.0": Image.Resampling.BICUBIC, "v1.1"',
         '"v1.1": Image.Resampling.BICUBIC, "v1.0"'),
        ("version's truncation", "truncate_for(self.model.config.version)", 'truncate_for("v1.0")'),
        ("previews at the wrong steps", "step % previews == 0", "step % previews == 1"),
        ("previews at the wrong time", "float(times[step - 1]), float(times[step])",
         "float(times[step]), float(times[step - 1])"),
        ("one noise for several sizes", "if len({request.size for request in requests}) > 1:",
         "if False:"),
        ("results in the order of batches", "[results[i] for i in range(len(requests))]",
         "list(results.values())"),
        ("noise of other results", "given[np.array(group)]", "given[: len(group)]"),
        ("text alone of v1.0", 'if self.model.config.version == "v1.0":', "if False:"),
        ("mask turned", "kept.append(~changing", "kept.append(changing"),
        ("tiles never", "return width * height > LARGEST_WHOLE_PIXELS", "return False"),
    ],
    ("sampling/sampler.py", "tests/editing/test_editor.py"): [
        ("kept without its noise", "(1 - t_next) * c.reference + t_next * noise",
         "c.reference"),
        ("mask unheeded", "if c.keep is None:", "if True:"),
    ],
    ("editing/finishing.py", "tests/editing/test_editor.py"): [
        ("back with the filter of the way in", "RESAMPLING_BACK = Image.Resampling.BICUBIC",
         "RESAMPLING_BACK = Image.Resampling.LANCZOS"),
        ("mask or what was found", "found if mask is None else mask & found",
         "found if mask is None else mask | found"),
        ("drift stays", "if finishing.align:", "if False:"),
    ],
    ("editing/finite.py", "tests/editing/test_editor.py"): [
        ("not finite", "if not np.isfinite(", "if False and not np.isfinite("),
    ],
    ("editing/conditioned.py", "tests/editing/test_editor.py"): [
        ("text of another picture", "(_digest(picture), text)", "text"),
        ("kept forever", "while len(self._values) > self._most:", "while False:"),
        ("the newest goes", "popitem(last=False)", "popitem(last=True)"),
        ("size of a picture unseen", "repr((picture.size, picture.mode)).encode()", 'b""'),
    ],
    ("editing/requests.py", "tests/editing/test_editor.py"): [
        ("counts unchecked", "if len(values) != count:", "if False:"),
        ("one seed for all", "return [first + i * count for i in range(pictures)]",
         "return [first] * pictures"),
        ("results of one seed", "Request(source, text, other, seeds[i] + k, size",
         "Request(source, text, other, seeds[i], size"),
    ],
    ("editing/batches.py", "tests/editing/test_places.py"): [
        ("batches of any size", "max(1, PIXELS // (width * height))", "len(members)"),
        ("mesh not filled", "max(1, parts // 2)", "1"),
    ],
    ("editing/memory.py", "tests/editing/test_places.py"): [
        ("all at once with offload", "if offload:", "if False:"),
        ("full memory unexplained", 'if "RESOURCE_EXHAUSTED" not in str(e):', "if True:"),
    ],
    ("parallel/host_memory.py", "tests/editing/test_places.py"): [
        ("borrowed and kept", "x.delete()", "pass"),
    ],
    ("editing/known_edits.py", "tests/editing"): [
        ("letters and signs", "re.findall(r\"\\w+\", text.casefold())", "[text]"),
    ],
    ("training/step/loss.py", "tests/training/step/test_loss.py"): [
        ("target turned", "(noise - clean)))", "(clean - noise)))"),
        ("interpolation turned", "(1 - t) * clean + t * noise", "t * clean + (1 - t) * noise"),
    ],
    ("training/step/timesteps.py", "tests/training/step/test_timesteps.py"): [
        ("times not shifted", "return time_shift(t, num_tokens, config.shift)", "return t"),
        ("std ignored", "config.std * normal", "normal"),
    ],
    ("training/step/optimizer.py", "tests/training/step/test_optimizer.py"): [
        ("no clipping", "if config.clip_norm else", "if False else"),
        ("no weight decay", "weight_decay=config.weight_decay", "weight_decay=0.0"),
        ("warm-up from 0", "(step + 1) / max", "step / max"),
        ("fall from the start", "/ (steps - flat_steps)", "/ steps"),
    ],
    ("training/step/precision.py", "tests/training/step/test_precision.py"): [
        ("rounded to nearest",
         "return stochastic_round(now, named(key, jax.tree_util.keystr(path)))",
         "return now.astype(before.dtype)"),
        ("rounded up too often", "+ jax.random.bits(key, x.shape, jnp.uint16)",
         "+ 2 * jax.random.bits(key, x.shape, jnp.uint16)"),
        ("NaN becomes infinite", "jnp.where(jnp.isfinite(x), rounded", "jnp.where(True, rounded"),
        ("arrays rounded alike", "named(key, jax.tree_util.keystr(path))", 'named(key, "")'),
        ("norms cast, too", "x.astype(dtype) if is_kernel else x", "x.astype(dtype)"),
    ],
    ("training/step/accumulation.py", "tests/training/step/test_accumulation.py"): [
        ("sum not mean", "lambda g: g / parts, gradient", "lambda g: g, gradient"),
        ("loss of the parts added up", "return value / parts,", "return value,"),
        ("last part counts", "lambda a, g: a + g.astype", "lambda a, g: g.astype"),
        ("examples sent around",
         "jnp.swapaxes(x.reshape(len(x) // parts, parts, *x.shape[1:]), 0, 1)",
         "x.reshape(parts, len(x) // parts, *x.shape[1:])"),
    ],
    ("training/step/adafactor.py", "tests/training/step/test_adafactor.py"): [
        ("layers mixed", 'if name != "layers"]', "if True]"),
        ("layers clipped together", 'enumerate(names) if name != "layers")', "enumerate(names))"),
        ("rows not normalised", "rsqrt(r / r.mean(small, keepdims=True))", "rsqrt(r)"),
        ("first step decays", "state.steps + 1).astype", "state.steps + 2).astype"),
    ],
    ("training/parts.py", f"{LORA}::test_on_eight_devices_all_is_split_as_the_kernels_are"): [
        ("all is trained", "nnx.LoRAParam if config.lora.rank else nnx.Param", "nnx.Param"),
    ],
    ("training/step/train_step.py", "tests/training/step/test_precision.py"): [
        ("moments kept in float32", "opt_state=lowered(opt_state, config.optimizer.moment_dtype)",
         "opt_state=opt_state"),
        ("average in bfloat16", "jnp.copy(x.astype(jnp.float32))", "jnp.copy(x)"),
    ],
    ("training/step/train_step.py", "tests/training/step/test_step_draws.py"): [
        ("average turned", "decay * a + (1 - decay) * p", "decay * p + (1 - decay) * a"),
        ("noise of step 0", 'stream(seed, "noise"), state.step', 'stream(seed, "noise"), 0'),
        ("times of step 0", 'stream(seed, "timesteps"), state.step',
         'stream(seed, "timesteps"), 0'),
        ("one stream for two", 'stream(seed, "timesteps")', 'stream(seed, "noise")'),
        ("steps not counted", "TrainState(state.step + 1", "TrainState(state.step"),
        ("noise to picture", "interpolate(clean, noise, t)", "interpolate(noise, clean, t)"),
        ("loss's target turned", 'loss(velocity, x["clean"], x["noise"])',
         'loss(velocity, x["noise"], x["clean"])'),
        ("tokens not packed", "height * width // PATCH**2", "height * width"),
        ("target as reference", 'x["source"]', 'x["target"]'),
    ],
    ("training/config.py", "tests/training/test_config.py"): [
        ("resume with any seed", '"training.steps",\n', '"training.",\n'),
        ("records of a run not compared", "if list(records) != list(saved_records):", "if False:"),
        ("places compared by name", "same = _places if field in PLACES else _itself",
         "same = _itself"),
        ("held-out records unseen", "    if config.held_out.path:\n        for",
         "    if False:\n        for"),
    ],
    ("weights/run/restoring.py", "tests/training/checkpoint/test_checkpoints.py"): [
        ("fingerprint not compared", "if not same(saved[item][name], found):", "if False:"),
    ],
    ("training/checkpoint/checkpoints.py", "tests/training/checkpoint/test_checkpoints.py"): [
        ("step forgotten", 'items["optimizer"]["step"]', "jnp.zeros((), jnp.int32)"),
    ],
    ("training/config.py", f"{OTHER_BASE} {LORA}::test_no_base_is_a_mistake"): [
        ("adapters without base", "require(bool(self.training.start_from)", "require(True"),
        ("another base refused by name", "if config.lora.rank else ()", "if False else ()"),
    ],
    ("training/checkpoint/checkpoints.py", OTHER_BASE): [
        ("base not looked at on resume", "if base is not None and (name", "if False and (name"),
        ("base forgotten", "base,\n            None if records",
         "None,\n            None if records"),
    ],
    ("weights/run/description.py", OTHER_BASE): [
        ("any base", "if n not in saved or not same(saved[n], x)", "if n not in saved"),
    ],
    ("weights/run/fingerprints.py", "tests/weights/run/test_fingerprints.py"): [
        ("places do not count", "x = bits ^ (place * _SPREAD)", "x = bits"),
        ("sums alone compared", "for a, b in bits)", "for a, b in list(bits)[:1])"),
        ("blocks without their place", "_sums(bits, first, shape)", "_sums(bits, 0, shape)"),
        ("rows without their place", "begin = (first + i * stride + j)", "begin = (first + j)"),
        ("columns without their place", "begin = (first + i * stride + j)",
         "begin = (first + i * stride)"),
        ("rows of a chunk in one place", "[:, None] * stride", "[:, None] * 0"),
        ("blocks of a block in one place", "_sums(x, first + i * stride, shape[1:])",
         "_sums(x, first, shape[1:])"),
    ],
    ("weights/run/damage.py", "tests/weights/run/test_damage.py"): [
        ("rights as damage", "None if is_remote(path) else _unreadable(path)", "None"),
        ("errors of the disk as damage", "not missing and one.errno not in OF_FILES", "False"),
        ("errors of tensorstore as damage", "if int(code[1]) not in OF_FILES:", "if False:"),
        ("reasons inside others unseen", "todo += [one.__cause__", "[one.__cause__"),
    ],
    ("weights/run/description.py", "tests/weights/run/test_damage.py"): [
        ("older fingerprints", 'array["fingerprint"] = [array["fingerprint"]]', "pass"),
        ("dtypes of any kind", 'if array["dtype"] not in DTYPES:', "if False:"),
        ("models that cannot be", "result.model.validate()", "pass"),
    ],
    ("weights/run/description.py", "tests/weights/run/test_stored.py"): [
        ("one older version", "if version not in (2, SCHEMA_VERSION):",
         "if version != SCHEMA_VERSION:"),
        ("newer ones as older ones", "if version > SCHEMA_VERSION:", "if False:"),
    ],
    ("weights/run/folder.py", "tests/weights/run/test_damage.py"): [
        ("digits of other scripts", 're.fullmatch(r"0|[1-9][0-9]{0,17}", name)', "name.isdigit()"),
        ("over an older damaged one", "if not os.path.lexists(path.parent / name))", "if True)"),
    ],
    ("weights/run/folder.py", "tests/training/test_loop.py"): [
        ("brackets", 're.search(r"[*?]|\\[.*\\]", text)', "False"),
    ],
    ("curation/captions/rounds.py", "tests/curation/captions/test_rounds.py"): [
        ("claims of one round stay", "if n >= needed]", "]"),
        ("what nobody confirms goes on", "dict.fromkeys([*confirmed, *stated])",
         "dict.fromkeys([*self.latest, *stated])"),
        ("numbers of nothing", "if not all(1 <= number <= given for number in self.confirmed):",
         "if False:"),
    ],
    ("curation/chat/prompts.py", "tests/curation/captions/test_rounds.py"): [
        ("places in what models say", "lambda match: values[match[1]], read_prompt(name))",
         "lambda match: values[match[1]].replace('{most}', '12'), read_prompt(name))"),
    ],
    ("curation/chat/stage.py", "tests/curation/chat/test_plan_edits.py"): [
        ("replies of another revision", "if revision:", "if False:"),
        ("no reply is a rejection", 'elif answer.status == "failed":', "elif False:"),
        ("requests not counted", '["requests"] += answer.paid', '["requests"] += 0'),
    ],
    ("curation/engine/stage.py", "tests/curation/chat/test_plan_edits.py"): [
        ("a failure is many rows", "single = isinstance(made, Mapping | Rejected | Failed)",
         "single = isinstance(made, Mapping | Rejected)"),
    ],
    ("curation/chat/plan_edits.py", "tests/curation/chat/test_plan_edits.py"): [
        ("plans of any category", "edit.category in self.categories", "True"),
        ("more edits than were asked for", "len(plan.edits) <= self.count and all(", "all("),
        ("instructions in any language", "check_english(edit.instruction) or ", ""),
        ("descriptions in any language", " or check_english(edit.target)", ""),
        ("tags are not told", 'if tags else ""', 'if False else ""'),
        ("other words, the same plans", '"prompts": digest_prompts(PROMPTS), ', ""),
    ],
    ("curation/chat/verdict.py", "tests/curation/chat/test_verdict.py"): [
        ("an edit of eleven of ten", "Meta(ge=0, le=BEST)", "Meta(ge=0)"),
        ("not done, and a success", "return not self.done and self.success > MOST_UNDONE",
         "return False"),
        ("the target is not shown", 'pictures: ClassVar = ("source", "target")',
         'pictures: ClassVar = ("source", "source")'),
    ],
    ("curation/operators/limits.py", f"{OPERATORS}/test_limits.py"): [
        ("limits from above", "row[name] < least:", "row[name] > least:"),
        ("limits of other scores", '"clip_image": self.image,', '"clip_image": self.direction,'),
        ("unsafe pictures pass", 'if row["nsfw"] is not None and row["nsfw"] > self.nsfw:',
         "if False:"),
        ("no score is a low one", "if row[name] is not None and row[name] < least:",
         "if (row[name] or 0) < least:"),
    ],
    ("curation/sources/archives.py", "tests/curation/sources/test_archives.py"): [
        ("truncated pictures", "if end > size:", "if False:"),
        ("links in archives", "if not info.isreg():", "if info.isdir():"),
        ("damage is forgotten", "if damage:\n                changes",
         "if False:\n                changes"),
    ],
    ("curation/sources/folder.py", "tests/curation/sources/test_folder.py"): [
        ("changes not noticed", "[name, _stamp(path), repr(said)]", "[name, repr(said)]"),
        ("licences not noticed", "[name, _stamp(path), repr(said)]", "[name, _stamp(path)]"),
    ],
    ("curation/sources/photograph_rows.py", "tests/curation/sources/test_folder.py"): [
        ("parts of any size", " or total + size > UNIT_BYTES:", ":"),
    ],
    ("curation/engine/ray_actors.py", "tests/curation/engine/test_ray.py"): [
        ("actors on every CPU", "LEFT_FREE = 1.0", "LEFT_FREE = 0.0"),
        ("actors without their GPU", "if 0 in counts:", "if False:"),
    ],
    ("curation/export.py", "tests/curation/test_choices.py"): [
        ("edits of both sides", "if len(inside) > 1:", "if False:"),
        ("nothing left to train on", "max(len(ordered) - 1, 0)", "len(ordered)"),
        ("held out by order", 'key=lambda group: _hash(f"{seed} {group}")', "key=str"),
    ],
    ("curation/export.py", "tests/curation/stages/test_plain_edits.py"): [
        ("other groups held out", "set(config.held_out_groups) or", "set() or"),
        ("groups that are not there", "if unknown := sorted(", "if False and sorted("),
    ],
    ("curation/stages/plain_edits.py", "tests/curation/stages/test_plain_edits.py"): [
        ("masks of all", "changed if kind.local else", "changed if False else"),
    ],
    ("curation/sources/crops.py", "tests/curation/stages/test_plain_edits.py"): [
        ("squares alone", "shapes[number % len(shapes)]", "shapes[0]"),
        ("held out trained on", "if name not in self.apart]", "]"),
        ("groups of crops", "group=name,", "group=row,"),
    ],
    ("curation/embedded/crops.py", "tests/curation/embedded/test_crops.py"): [
        ("never mirrored", "if rng.random() < 0.5 else result", "if False else result"),
        ("textures as often", "[RARE.get(name, 1.0) for name in names]", "[1.0 for name in names]"),
        ("sizes by rounding", "image_size(across, down, size)", "image_size(*box, size)"),
    ],
    ("quickstart/report.py", "tests/quickstart/test_report.py"): [
        ("orders of shapes", "[scores[i] for i in range(len(edits))]", "list(scores.values())"),
    ],
    ("quickstart/held_out.py", "tests/quickstart/test_held_out.py"): [
        ("one language", "+ kinds.index(edit.kind)) % 2", ") % 2"),
    ],
    ("curation/sheet.py", "tests/curation/test_choices.py"): [
        ("one photograph after another", "queues.append(ids)", "queues.appendleft(ids)"),
    ],
    ("curation/review.py", "tests/curation/test_choices.py"): [
        ("reasons of any kind", 'known = verdict.reason in ("", *REASONS)', "known = True"),
    ],
    ("curation/config.py", "tests/curation/test_config.py"): [
        ("fields that are none", "require(name in names,", "require(True,"),
        ("settings of any type", 'check_fields(stage, "the config", f"stages.{name}")', "pass"),
        ("languages of any kind", "set(languages) <= set(LANGUAGES)", "True"),
    ],
    ("curation/engine/driver.py", f"{ENGINE}/test_driver.py"): [
        ("seeds not in the fingerprint", "digest_of(stage.fingerprint(), str(pipeline.seed),",
         "digest_of(stage.fingerprint(),"),
        ("decisions about other rows", "whole = [digest_of(*inputs.values())] if", "whole = [] if"),
        ("failures are not tried again",
         "if _Errors(name, pipeline.max_error_rate, done.values()).too_many:", "if False:"),
        ("any number of failures", "return self._kinds.total() > self._most * self._worked",
         "return False"),
        ("everything is made anew", "usable = before is not None and before.stage == plan.own and",
         "usable = False and"),
    ],
    ("curation/engine/worker.py", f"{ENGINE}/test_driver.py"): [
        ("what may pass ends a row", "if not isinstance(e, TRANSIENT) or failures >= ATTEMPTS:",
         "if True:"),
        ("one row fails its batch", "if len(rows) > 1:", "if False:"),
        ("rows that are left out vanish", "rows.append(self._carried(one))", "pass"),
        ("failures are kept",
         "if not any(row[STATUS] == FAILED and row[STAGE] == name for row in rows)", "if rows"),
        ("values of any type", "check_values(dict(columns), kinds)", "pass"),
    ],
    ("curation/engine/workdir.py", f"{ENGINE}/test_crashes.py"): [
        ("two drivers", "with exclusive(self.path / LOCK, message):",
         "with contextlib.nullcontext():"),
        ("parts without their files", "if all(self._is_there(name, file) for file in part.files):",
         "if True:"),
        ("parts from elsewhere", "return _FILE.fullmatch(file.file) is not None", "return True"),
    ],
    ("curation/engine/workdir.py", f"{ENGINE}/test_driver.py"): [
        ("files of dead workers stay", "unused = _FILE.fullmatch(path.name) and path.name not in"
         " used", "unused = False"),
        ("parts of what is gone", "for key in set(parts) - set(keys):", "for key in ():"),
    ],
    ("curation/embedded/gates.py", GATES): [
        ("changes beside the region",
         "if not np.array_equal(edit.source[~mask], edit.target[~mask]):", "if False:"),
        ("edits that nobody sees", "if change < LEAST_CHANGE:", "if False:"),
        ("regions of a pixel", "if share < LEAST_REGION:", "if False:"),
        ("cameras that move", " and foreground >= LEAST_FLOW_RATIO * background", ""),
        ("subjects that stand still", "foreground >= LEAST_MOVE * longer_side and ", ""),
        ("masks without depth", "if disparity is not None:", "if False:"),
        ("every surface is flat", "return float(np.median(errors))", "return 0.0"),
        ("the best of the jitters", "return float(min(shares))", "return float(max(shares))"),
    ],
    ("curation/operators/models.py", f"{OPERATORS}/test_models.py"): [
        ("branches as revisions", "COMMIT.fullmatch(self.revision) is not None", "True"),
        ("revisions not in the fingerprint", '"revision": self.revision}', '"revision": ""}'),
        ("another revision is loaded", "from_pretrained(self.model, revision=self.revision, ",
         "from_pretrained(self.model, "),
        ("GPUs in the fingerprint", '("model", "revision", "gpus")', '("model", "revision")'),
        ("models without a GPU", '{"CPU": 1, "GPU": self.gpus}', '{"CPU": 1}'),
        ("any number of GPUs", "0 <= self.gpus <= 64", "True"),
        ("missing libraries without a word", "except ImportError as e:",
         "except ZeroDivisionError as e:"),
    ],
    ("curation/operators/models.py", OPERATORS): [
        ("weights not in the fingerprint", ".as_posix(): fingerprint(path)", '.as_posix(): ""'),
        ("a moved model is another", ".relative_to(self.folder).as_posix()", ".as_posix()"),
        ("missing weights are random", "if wrong:", "if False:"),
        ("missing files without a word", "except Exception as e:  # of many kinds, from",
         "except ZeroDivisionError as e:  # of many kinds, from"),
        ("models that are in training", "return model.eval().to", "return model.train().to"),
    ],
    ("curation/operators/pictures.py", f"{OPERATORS}/test_clip.py"): [
        ("bad pictures move the others", "fine = [row for row, one in zip(rows, decoded,"
         " strict=True) if isinstance(one, list)]", "fine = list(rows)"),
        ("bad pictures end the batch", "except UserError as e:", "except ZeroDivisionError as e:"),
        ("models are given nothing", "if fine else ()", "if True else ()"),
    ],
    ("curation/operators/candidates.py", f"{OPERATORS}/test_own_editor.py"): [
        ("rows with the same seeds", "context.rng(row)", "np.random.default_rng(0)"),
        ("candidates with one seed", "picture = make(seed)", "picture = make(0)"),
        ("seeds that are not those", '"seed": str(seed)', '"seed": str(seed + 1)'),
        ("candidates without number", '"candidate": number', '"candidate": 0'),
        ("no candidates", "1 <= count <= MOST", "True"),
    ],
    ("curation/operators/clip.py", f"{OPERATORS}/test_clip.py"): [
        ("embeddings of any length", "return vectors / np.where(lengths > 0, lengths, 1)",
         "return vectors"),
        ("the way back", "normalize(after - before)", "normalize(before - after)"),
        ("directions of nothing", "if all(row[name] for name in self.optional)", "if True"),
        ("captions of any length", "truncation=True", "truncation=False"),
        ("sources with themselves", "np.sum(sources * targets", "np.sum(sources * sources"),
    ],
    ("curation/operators/aesthetics.py", f"{OPERATORS}/test_clip.py"): [
        ("layers by their letters", "names.sort(key=lambda name: [int(number) for number in"
         ' re.findall(r"[0-9]+", name)])', "names.sort()"),
        ("layers without bias", "values @ weight.T + bias", "values @ weight.T"),
        ("heads not in the fingerprint", '"head": fingerprint(user_path(self.head))', '"head": ""'),
        ("a moved head is another", '(*ModelStage.aside, "head")', "ModelStage.aside"),
        ("heads with many ends", "if not layers or sizes[-1] != 1:", "if not layers:"),
        ("heads of another CLIP", "and weight.shape[1] == sizes[-1]", ""),
    ],
    ("curation/operators/aesthetics.py", f"{OPERATORS}/test_models.py"): [
        ("no head at all", 'require(bool(self.head), "head"', 'require(True, "head"'),
    ],
    ("curation/operators/nsfw.py", f"{OPERATORS}/test_nsfw.py"): [
        ("the first label", "place = labels.index(self.label)", "place = 0"),
        ("labels that are none", "if labels.count(self.label) != 1:", "if False:"),
        ("shares that do not add up", "softmax(-1)", "sigmoid()"),
        ("photographs in place of targets", 'reads: ClassVar = {"target": bytes}',
         'reads: ClassVar = {"picture": bytes}'),
    ],
    ("curation/operators/florence2.py", f"{OPERATORS}/test_florence2.py"): [
        ("boxes without area", "if box[0] < box[2] and box[1] < box[3] and", "if"),
        ("boxes without name", "and box[1] < box[3] and label.strip()", "and box[1] < box[3]"),
        ("a tag for each box", "list(dict.fromkeys(labels))", "labels"),
        ("answers by chance", "do_sample=False", "do_sample=True"),
        ("sides exchanged", "image_size=one.size)", "image_size=one.size[::-1])"),
        ("padding is said", 'text.replace("<pad>", " ")', "text"),
        ("captions exchanged", "before, after = (model.answer", "after, before = (model.answer"),
    ],
    ("curation/operators/sam2.py", f"{OPERATORS}/test_sam2.py"): [
        ("boxes where they are not", "boxes *= side / np.array([*size, *size], np.float32)",
         "boxes *= 1"),
        ("masks of what is not there", "(large[:, 0] > 0)", "(large[:, 0] < 0)"),
        ("masks on one picture", "[level[i : i + 1] for level in levels]",
         "[level[:1] for level in levels]"),
        ("colours as they are", "(np.asarray(small, np.float32) / 255 - MEAN) / DEVIATION",
         "np.asarray(small, np.float32) / 255"),
        ("masks that are turned", "size[::-1], mode", "size, mode"),
    ],
    ("curation/operators/zoedepth.py", f"{OPERATORS}/test_zoedepth.py"): [
        ("the margin stays", "(int(math.sqrt(side / 2) * 3) if padded else 0 for side in size)",
         "(0 for side in size)"),
        ("centimetres", "MILLIMETRES = 1000", "MILLIMETRES = 100"),
        ("what is too far is near", "np.clip(np.rint(metres * MILLIMETRES), 0,"
         " np.iinfo(np.uint16).max)", "np.rint(metres * MILLIMETRES)"),
        ("depth of another picture", "zip(places, depths, strict=True)",
         "zip(places[::-1], depths, strict=True)"),
    ],
    ("curation/operators/pp_ocrv5.py", f"{OPERATORS}/test_pp_ocrv5.py"): [
        ("red first", "pixels[..., ::-1].transpose", "pixels.transpose"),
        ("text is enlarged", '"max": min(limit / longest, 1.0)', '"max": limit / longest'),
        ("sides of any length", "round(int(side * scale) / STRIDE) * STRIDE", "int(side * scale)"),
        ("doubtful text", "if score < LEAST_SCORE:", "if False:"),
        ("specks as text", "if min(sides) < LEAST_SIDE:", "if False:"),
        ("boxes stay small", "tuple(side + 2 * grown for side in sides)", "sides"),
        ("boxes leave their pictures", "np.clip(cv2.boxPoints((centre, sides, angle)) * scale, 0,"
         " size)", "cv2.boxPoints((centre, sides, angle)) * scale"),
        ("boxes in the model's pixels", "np.array(size, np.float64) / found.shape[::-1]",
         "np.ones(2)"),
        ("corners from anywhere", "ordered[first:] + ordered[:first]",
         "ordered[first - 1:] + ordered[:first - 1]"),
        ("lines from below", "boxes.sort(key=lambda box: (box[0][0][1], box[0][0][0]))",
         "boxes.sort(key=lambda box: -box[0][0][1])"),
        ("lines that run downwards", "return np.rot90(line) if height / width >= UPRIGHT else line",
         "return line"),
        ("lines are stretched", "width = max(min(width, settings.max_image_width), 1)",
         "width = least"),
        ("nothing beside short lines", "(0, max(least - width, 0))", "(0, 0)"),
        ("letters twice", "id != 0 and (i == 0 or id != ids[i - 1])", "id != 0"),
        ("blanks are letters", "if id != 0 and (", "if ("),
        ("blanks are scored", "float(likely[kept].mean())", "float(likely.mean())"),
        ("letters of another model", "if len(letters) != count:", "if False:"),
    ],
    ("curation/operators/diffusion.py", f"{OPERATORS}/test_diffusion.py"): [
        ("numbers drawn besides", "torch.manual_seed(seed)\n", "pass\n"),
        ("numbers of others are drawn", "with torch.random.fork_rng():", "if True:"),
        ("noise of one seed", 'torch.Generator("cpu").manual_seed(seed)',
         'torch.Generator("cpu").manual_seed(0)'),
        ("steps of the library", "num_inference_steps=self.steps,", "num_inference_steps=50,"),
        ("guidance of the library", "guidance_scale=self.guidance,", "guidance_scale=30.0,"),
        ("another shape", "image_size(*pictures[0].size, self.size)", "(self.size, self.size)"),
        ("methods without model", "if self.folder is None:\n            method", "if False:\n"
         "            method"),
    ],
    ("curation/operators/diffusion.py", f"{OPERATORS}/test_flux_fill.py"): [
        ("models in float32", "library, self.dtype, subfolder=name)", "library, subfolder=name)"),
        ("no steps", "1 <= self.steps <= 1000", "True"),
        ("sizes of a stamp", "32 <= self.size <= 4096", "True"),
        ("a torn source ends the stage", "except UserError as e:",
         "except ZeroDivisionError as e:"),
    ],
    ("curation/operators/flux_fill.py",
     f"{OPERATORS}/test_flux_fill.py {OPERATORS}/test_diffusion.py"): [
        ("all is painted", "return Image.composite(made.resize(source.size,"
         " Image.Resampling.LANCZOS), source, mask)", "return made.resize(source.size)"),
        ("grey edges", ".resize(source.size).point(lambda value: 255 * (value > 127))",
         ".resize(source.size)"),
        ("nothing asked for", 'prompt=row["fill_prompt"]', 'prompt=""'),
    ],
    ("curation/operators/sd3_controlnet.py",
     f"{OPERATORS}/test_sd3_controlnet.py {OPERATORS}/test_diffusion.py"): [
        ("all is made anew", "if not row[\"mask\"]:", "if True:"),
        ("half of both at edges", "mask.point(lambda value: 255 * (value > 127))", "mask"),
        ("edges as pictures", "pixels * 127.5 + 0.5 if edges else pixels * 2 - 1",
         "pixels * 2 - 1"),
        ("edges in place of depth", 'edges = self.control == "edges"', "edges = True"),
        ("strength of the library", "controlnet_conditioning_scale=self.strength,", ""),
        ("ControlNets not in the fingerprint", '"controlnet": self._controlnet.identity()',
         '"controlnet": {}'),
        ("a moved ControlNet is another", '        "controlnet",\n', ""),
        ("branches as revisions of ControlNets", "self._controlnet.validate()", "pass"),
        ("far is white", "near = 1 / np.maximum(depth, 1)", "near = depth"),
        ("controls of any name", "require(self.control in CONTROLS", "require(True"),
    ],
    ("curation/operators/own_editor.py", f"{OPERATORS}/test_own_editor.py"): [
        ("masks of old targets", 'writes: ClassVar = {**COLUMNS, "mask": bytes}',
         "writes: ClassVar = COLUMNS"),
        ("our weights not in the fingerprint", "return self._maker.identity(self)", "return {}"),
        ("our moved model is another", 'ClassVar[Sequence[str]] = ("model", "autoencoder"',
         'ClassVar[Sequence[str]] = ("autoencoder"'),
        ("no editor", "if maker is None:", "if False:"),
        ("editors without a TPU", '"GPU": self.gpus, "TPU": self.tpus}', '"GPU": self.gpus}'),
        ("a torn source of ours ends the stage", "except UserError as e:",
         "except ZeroDivisionError as e:"),
        ("no instruction", 'edit(source, row["instruction_en"], seed)',
         'edit(source, "", seed)'),
    ],
    ("curation/operators/fill_plans.py", f"{OPERATORS}/test_fill_plans.py"): [
        ("objects of any size", "not self.least_area <= area <= self.most_area", "False"),
        ("objects without area", "not self.least_area <= area <=", "not area <="),
        ("masks of any score", "score < self.least_score or", ""),
        ("masks end at the edge", "encode_png(np.asarray(grow(mask)))",
         "encode_png(np.asarray(mask))"),
        ("things become themselves", "if thing != label]", "]"),
        ("areas the wrong way round", "0 <= self.least_area <= self.most_area <= 1", "True"),
    ],
    ("training/failures/stop_signal.py", "tests/training/failures/test_stop_signal.py"): [
        ("nothing said", "os.write(1, SAID)", "pass"),
        ("a second signal waits", "os._exit(128 + number[0])", "pass"),
    ],
    ("weights/run/description.py", "tests/training/checkpoint/test_checkpoints.py"): [
        ("dtype not compared", 'here = f"{x.dtype}{list(x.shape)}"',
         'here = summary(saved[name]) if name in saved else "here"'),
    ],
    ("weights/run/folder.py", "tests/training/checkpoint/test_checkpoint_gcs.py"): [
        ("steps by listing alone", 'steps |= set(_notes(folder).saved)', "pass"),
        ("what is not committed", "if (folder / str(step) / COMMITTED).exists()", "if step"),
        ("damage in a bucket forgotten", 'note(path.parent, "damaged", int(path.name))', "pass"),
        ("not listed is damaged", "not folder.is_dir() and (folder / file).exists()", "False"),
    ],
    ("training/loop.py", "tests/training/checkpoint/test_checkpoint_gcs.py"): [
        ("rows after their checkpoint", "metrics.flush()", "pass"),
    ],
    ("training/monitoring/metrics.py", "tests/training/monitoring/test_metrics.py"): [
        ("later rows stay in a bucket", "raise self._not_written(e) from e\n        self.flush()",
         "raise self._not_written(e) from e"),
    ],
    ("training/checkpoint/checkpoints.py", "tests/training/test_loop.py"): [
        ("optimizer forgotten", "params, opt_state, ema)",
         "params, jax.tree.map(jnp.zeros_like, opt_state), ema)"),
    ],
    ("training/failures/not_finite.py", "tests/training/failures/test_not_finite.py"): [
        ("NaN not noticed", "not np.isfinite(value)", "np.isinf(value)"),
        ("names of edits forgotten", 'batch.get("ids", ())', "()"),
    ],
    ("training/monitoring/held_out.py", "tests/training/monitoring/test_held_out.py"): [
        ("other noise for every batch", "stream(config.training.seed, \"held_out\"), number)",
         "stream(config.training.seed, \"held_out\"), 0)"),
        ("held-out loss at one time", "jnp.full(len(clean), time)", "jnp.full(len(clean), 0.5)"),
        ("pictures without negatives", "for dropped in (False, True)\n",
         "for dropped in (False, False)\n"),
    ],
    ("training/monitoring/clock.py", "tests/training/monitoring/test_clock.py"): [
        ("compiling counts as a step", "if size not in self._compiled:", "if False:"),
        ("compiling another size counts as a step", "if size not in self._compiled:",
         "if not self._compiled:"),
        ("operations of the last step alone", "self._flops += flops", "self._flops = flops"),
        ("MFU of one device", "* jax.device_count())", "* 1)"),
    ],
    ("training/checkpoint/late_errors.py", "tests/training/checkpoint/test_late_errors.py"): [
        ("all late errors dropped", 'and str(error) == "Event loop is closed"', ""),
        ("late errors dropped for good", "sys.unraisablehook = before", "pass"),
    ],
    ("training/loop.py", "tests/training/test_loop.py"): [
        ("last step not saved", "stop or step == steps or", "stop or"),
        ("configs not compared", "if (saved := checkpoints.describe_newest()) is not None:",
         "if (saved := None) is not None:"),
        ("two at once", "functools.partial(to_the_end.enter_context, lock)", "lambda: None"),
        ("signals ignored", "if stop:", "if False:"),
        ("anything moves in a step", 'jax.transfer_guard("disallow")',
         'jax.transfer_guard("allow")'),
    ],
    ("training/failures/lost_peer.py", "tests/launch/test_exit_codes.py"): [
        ("an exit code of which the guide says nothing", "LOST = 75", "LOST = 76"),
    ],
    ("training/failures/lost_peer.py", "tests/training/failures/test_lost_peer.py"): [
        ("what moved unasked is a lost peer", '("RESOURCE_EXHAUSTED", "Disallowed ")',
         '("RESOURCE_EXHAUSTED",)'),
    ],
    ("training/loop.py", "tests/training/monitoring/test_held_out.py"): [
        ("average not evaluated", "evaluated = state.ema\n", "evaluated = state.params\n"),
        ("pictures without the average", "evaluation.show(evaluated,",
         "evaluation.show(state.params,"),
        ("loss without the average", "evaluation.loss(evaluated,", "evaluation.loss(state.params,"),
        ("average not said", "if evaluation is not None and decay:", "if False:"),
        ("average said where there is none", "if evaluation is not None and decay:",
         "if evaluation is not None:"),
        ("rows do not tell the average", 'numbers["held_out_ema_decay"] = decay', "pass"),
    ],
    ("editing/masks.py", "tests/editing/test_masks.py"): [
        ("black layers are empty", "    return painted\n", "    return painted & (grey > 127)\n"),
        ("opaque masks are all painted", "if np.asarray(alpha).min() == 255:", "if False:"),
        ("layers in black and white are guessed", "<= BLACK).any() and", "< 0).any() and"),
        ("masks are not turned", "_from_picture(decode_upright(mask, name), name)",
         "_from_picture(mask, name)"),
        ("masks of any size", "if (width, height) != size:", "if False:"),
        ("empty masks edit nothing", "if not edited.any():", "if False:"),
        ("masks of 0 and 1 are black", "if array.max(initial=0) == 1:", "if False:"),
        ("NaN in masks is black", "if not ((array >= 0) & (array <= 1)).all():",
         "if ((array < 0) | (array > 1)).any():"),
        ("masks are the callers arrays", "return array.copy()", "return array"),
        ("last rows lost in latents", "-(-(i + 1) * rows // count)", "(i + 1) * rows // count"),
        ("nearest sampling of masks", "padded, np.stack([start, end], -1)",
         "padded, np.stack([start, start + 1], -1)"),
        ("feather reaches too far", "1 - distance / feather, 0", "1 - distance / (feather + 1), 0"),
        ("a straight ramp", "255 * x * x * (3 - 2 * x)", "255 * x"),
        ("strips without their surroundings", "first = max(0, top - feather)", "first = top"),
        ("strips end where they end", "top + STRIP + feather]", "top + STRIP]"),
        ("feather of a constant width", "round(FEATHER * (width * height) ** 0.5)", "32"),
        ("threshold does not follow the noise", "np.percentile(change, QUIET), LOWEST, HIGHEST)",
         "np.percentile(change, QUIET), LOWEST, LOWEST)"),
        ("threshold follows the noise alone", "np.percentile(change, QUIET), LOWEST, HIGHEST)",
         "np.percentile(change, QUIET), 0, HIGHEST)"),
        ("specks stay", "certain & large", "certain"),
        ("uncertain regions stay", "certain & large", "large"),
        ("edits do not grow", "distance_transform_edt(~mask) <= DILATION",
         "distance_transform_edt(~mask) <= 0"),
        ("nearly everything is not everything", "if mask.mean() > MOST:", "if False:"),
        ("changes of brightness alone", "np.abs(smooth).max(-1)", "np.abs(smooth.mean(-1))"),
    ],
    ("editing/registration.py", "tests/editing/test_registration.py"): [
        ("edits pull at the shift", "weights = np.clip(1 - (largest / cutoff) ** 2, 0, None) ** 2",
         "weights = np.ones(len(largest))"),
        ("no coarse shift", "starts = {(0.0, 0.0), _coarse_shift(before, after, outside)}",
         "starts = {(0.0, 0.0)}"),
        ("the worse fit", "found = min(fits", "found = max(fits"),
        ("shifts in measured pixels", "dx=found.dx * x", "dx=found.dx"),
        ("mask not left out", "outside = near < 0.01", "outside = near < 2"),
        ("any share fits", "found.share >= LEAST_SHARE", "True"),
        ("any error will do", "and found.error <= MOST_ERROR", ""),
        ("any contrast is a drift", "1 / MOST_GAIN <= gain <= MOST_GAIN", "True"),
        ("any brightness is a drift", "abs(change) <= MOST_OFFSET for", "True for"),
        ("no gain", "gain, offset = solution[:2], solution[2:5], solution[5:]",
         "gain, offset = solution[:2], gain, solution[5:]"),
        ("moved further away", "_moved(pixels, r.dx, r.dy)", "_moved(pixels, -r.dx, -r.dy)"),
        ("colours drift further", "pixels = (pixels - offset) / gain",
         "pixels = pixels * gain + offset"),
        ("blurred for nothing", ">= SMALLEST_SHIFT", ">= 0"),
        ("tiny pictures are measured", "if min(width, height) < SHORTEST:", "if False:"),
    ],
    ("parallel/rules.py", "tests/parallel"): [
        ("parameters not split", '"embed": Rule(stored=SHARDS)', '"embed": WHOLE'),
        ("batch not over fsdp", "PartitionSpec(BATCH_AXES)", 'PartitionSpec("data")'),
        ("colliding axes", "len(used) != len(set(used))", "False"),
    ],
}
# fmt: on

MUTATIONS = [
    Mutation(name, f"step1x_jax/{file}", old, new, tests)
    for (file, tests), rows in TABLE.items()
    for name, old, new in rows
]


def problems(root: pathlib.Path = ROOT) -> list[str]:
    """What is wrong with the table itself."""
    names = Counter(mutation.name for mutation in MUTATIONS)
    found = [
        f"{name}: {count} mutations of this name" for name, count in names.items() if count > 1
    ]
    for m in MUTATIONS:
        text = (root / m.file).read_text() if (root / m.file).is_file() else ""
        if (count := text.count(m.old)) != 1:
            found.append(f"{m.name}: its old text occurs {count} times in {m.file}")
        for test in m.tests.split():
            if not (root / test.split("::")[0]).exists():
                found.append(f"{m.name}: there is no {test}")
    return found


def first_failure(root: pathlib.Path, *tests: str) -> str | None:
    """The first test that fails, of these or all quick ones; or None."""
    python = str(SECOND_LANE) if tests == (HOPPER,) else sys.executable
    marks = "not slow" if tests and all(test.startswith(WITH_EXTRAS) for test in tests) else QUICK
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks]
    environment = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=root,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "(hangs)"
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:  # no test to run, or the code cannot be imported
        raise RuntimeError(f"pytest {' '.join(tests)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1]


def caught_by(mutation: Mutation, root: pathlib.Path) -> str | None:
    """The test that notices a mutation of the tree at `root`, which is as before afterwards."""
    path = root / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        return first_failure(root, *mutation.tests.split()) or first_failure(root)
    finally:
        path.write_text(text)


def main(arguments: list[str]) -> int:
    """Prints the table and the number of survivors."""
    wrong = problems()
    names = [name for name in arguments if name != "--check"]
    known = {mutation.name for mutation in MUTATIONS}
    wrong += [f"{name}: no such mutation" for name in names if name not in known]
    if wrong or "--check" in arguments:
        print("\n".join(wrong or [f"{len(MUTATIONS)} mutations fit the code."]))
        return int(bool(wrong))

    chosen = [mutation for mutation in MUTATIONS if mutation.name in names or not names]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "tree"
        left_out = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, root, ignore=left_out)
        named = {test for mutation in chosen for test in mutation.tests.split()}
        if HOPPER in named and not SECOND_LANE.exists():
            print(f"skipped: what {HOPPER} notices, because {SECOND_LANE} is not here")
            chosen = [mutation for mutation in chosen if mutation.tests != HOPPER]
            named.remove(HOPPER)
        with_extras = {test for test in named if test.startswith(WITH_EXTRAS)}
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if with_extras and missing:
            print(f"skipped: what needs {', '.join(missing)} to be noticed")
            chosen = [one for one in chosen if not one.tests.startswith(WITH_EXTRAS)]
            named -= with_extras
            with_extras = set()
        for tests in map(sorted, (named - with_extras - {HOPPER}, with_extras, named & {HOPPER})):
            if tests and (failing := first_failure(root, *tests)):
                print(f"{failing} fails without any mutation.")
                return 1
        print("| mutation | file | caught by | seconds |\n|---|---|---|---|", flush=True)
        for mutation in chosen:
            start = time.monotonic()
            test = caught_by(mutation, root)
            survivors += test is None
            seconds = f"{time.monotonic() - start:.0f}"
            row = mutation.name, mutation.file, test or "**nothing**", seconds
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{survivors} survivors.")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
