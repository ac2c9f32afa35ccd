"""Compile a run's step, or an edit, for TPUs that are not attached: does it fit, how fast is it?

    python -m launch.compile_ahead --config=configs/finetune_1024.py --topology=v5p:4x4x4
    python -m launch.compile_ahead --config=configs/finetune_1024.py --topology=v5e:2x2 \\
        --program=sample --mesh=fsdp=2,tensor=2 --quantize=int8

Nothing is executed and no TPU is needed, only libtpu (extra [tpu]), minutes, and 6 GiB of memory.
The batch of a training step is --examples for each group of chips that it is split over, whatever
data.batch_size says. --program=sample is the edit of one picture as launch.edit makes it, with the
models in the chips' memory and with --offload; it also takes one chip, as v6e:1x1. What the
estimate is made of, and what it does not see: step1x_jax/planning/estimate.py.

--search compiles several policies (model.remat), copies of the parameters (mesh.data) and batches,
or of an edit several meshes, one after another, and ranks what fits; each takes minutes.
"""

import json
import sys

from absl import flags

from launch.shared import config_flag
from launch.shared.command import run
from launch.shared.config_flag import read_config
from step1x_jax import choices
from step1x_jax.parallel.mesh import parse_mesh
from step1x_jax.planning.chips import parse_topology
from step1x_jax.planning.compilation import prepare_environment
from step1x_jax.planning.plan import PROGRAMS, make_plan, make_request, search_requests
from step1x_jax.planning.report import format_plan, ranking_key, summary_line

flags.adopt_module_key_flags(config_flag)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Chips, as v5p:4x4x4 or v6e:16x16.", required=True
)
_SLICES = flags.DEFINE_integer("slices", 1, "How many slices of that topology.", lower_bound=1)
_MESH = flags.DEFINE_string(
    "mesh", None, "As data=1,fsdp=64; default: the config's, of an edit fsdp=2,tensor=-1."
)
_PROGRAM = flags.DEFINE_enum("program", "train", PROGRAMS, "What to compile.")
_SIZE = flags.DEFINE_integer(
    "size", 1024, "Side of the pictures in pixels.", lower_bound=16, upper_bound=8192
)
_EXAMPLES = flags.DEFINE_integer("examples", 1, "For each part of the batch.", lower_bound=1)
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    None,
    list(choices.EIGHT_BITS),
    "Of an edit: stores the transformer's blocks in 8 bits.",
)
_JSON = flags.DEFINE_bool("json", False, "One JSON object (with --search a list) on stdout.")
_SEARCH = flags.DEFINE_bool(
    "search", False, "Tries policies x mesh x batch (of an edit: meshes); ranks."
)


def main() -> None:
    """Plan what the flags say."""
    prepare_environment()
    wanted = make_request(
        read_config(),
        parse_topology(_TOPOLOGY.value, _SLICES.value),
        program=_PROGRAM.value,
        size=_SIZE.value,
        mesh=parse_mesh(_MESH.value) if _MESH.value else None,
        examples=_EXAMPLES.value,
        quantize=_QUANTIZE.value,
    )
    if not _SEARCH.value:
        plan = make_plan(wanted)
        print(json.dumps(plan) if _JSON.value else format_plan(plan))
        return
    plans = []
    for number, candidate in enumerate(tried := list(search_requests(wanted)), start=1):
        plan = make_plan(candidate)
        plans.append(plan)
        print(f"{number}/{len(tried)}  {summary_line(plan)}", file=sys.stderr, flush=True)
    plans.sort(key=ranking_key)
    print(json.dumps(plans) if _JSON.value else "\n".join(map(summary_line, plans)))


if __name__ == "__main__":
    run(main)
