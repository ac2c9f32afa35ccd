"""Speed on this machine, side by side with what one would use otherwise.

python -m launch.bench attention                       # every implementation that runs here
python -m launch.bench encoder --json=encoder.json     # Qwen2.5-VL-7B, random weights, bfloat16
python -m launch.bench loader                          # records a second, beside what chips take
python -m launch.bench sample --error --model=quickstart --edits=edits.jsonl    # of each --speed

Ratios are of one run. Every table names the device and the versions.
"""

import importlib.metadata
import json
from typing import Any

import jax
from absl import flags

from launch.benches import attention as bench_attention
from launch.benches import encoder as bench_encoder
from launch.benches import loader as bench_loader
from launch.benches import sample as bench_sample
from launch.shared.command import run
from step1x_jax.files import replacing

_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")

BENCHMARKS = {
    "attention": bench_attention.rows,
    "encoder": bench_encoder.rows,
    "loader": bench_loader.rows,
    "sample": bench_sample.rows,
}
PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")


def main(name: str) -> None:
    """Measure and print one table."""
    where = {"device": jax.devices()[0].device_kind, "devices": jax.device_count()} | versions()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    measured = []
    for row in BENCHMARKS[name]():
        measured.append(row)
        print("  ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
    if _JSON.value:
        with replacing(_JSON.value) as temporary:
            rows = bench_sample.as_json(measured) if name == "sample" else {"rows": measured}
            temporary.write_text(json.dumps({"where": where} | rows, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, as installed."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main, operands=tuple(BENCHMARKS))
