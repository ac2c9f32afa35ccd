"""Mutations of step1x_jax/planning/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/planning/edit_memory.py", "tests/planning/test_edit.py"): [
        ("all wait somewhere", "peak_gib", "if not offload:", "if False:"),
        ("the autoencoder waits too", "peak_gib",
         "ALWAYS_RESIDENT, MODEL_OF_PROGRAM[program]", "MODEL_OF_PROGRAM[program]"),
        ("weights alone", "peak_gib", "resident(program) + gib", "resident(program)"),
        ("8 bits forgotten", "weights_gib", "config, quantize", "config"),
        ("the autoencoder in parts", "weights_gib",
         "with_shardings(..., single)", "with_shardings(..., mesh)"),
    ],
    ("step1x_jax/planning/edit.py", "tests/planning/test_edit.py"): [
        ("one instruction is read", "", "'read': 2", "'read': 1"),
        ("more parts than guidance has", "edit_meshes", "fsdp=2, tensor=chips // 2", "fsdp=chips"),
        ("always fits", "combine_programs", "gib <= available", "gib <= 2 * available"),
        ("one branch of guidance", "combine_programs", "2 * steps", "steps"),
    ],
    ("step1x_jax/planning/plan.py", "tests/planning/test_edit.py"): [
        ("several pictures", "make_request",
         "if topology.slices > 1 or examples > 1:", "if False:"),
    ],
    ("step1x_jax/planning/report.py", "tests/planning/test_edit.py"): [
        ("what does not fit is first", "ranking_key", "math.inf", "0.0"),
    ],
    ("step1x_jax/planning/gpu_memory.py", "tests/planning/test_gpu_memory.py"): [
        ("all of a card", "smallest_card", "USABLE_FRACTION * mib", "mib"),
        ("an edit on two GPUs", "plan_edit_memory", "if len(devices) > 1:", "if len(devices) > 9:"),
    ],
    ("step1x_jax/planning/hlo.py", "tests/planning"): [
        ("stack counted whole", "_operand_use", "x.result[0]", "parameter.result[0]"),
        ("holes of a window count", "_window_positions", "... & (at % base == 0)", "..."),
        ("padding counts", "_window_positions", "at >= 0", "at >= -(10**9)"),
        ("VMEM counts", "hbm_bytes", "not source.result[0].in_hbm", "False"),
        ("update counted once", "_operand_use",
         "2 * update.result[0].bytes", "update.result[0].bytes"),
    ],
    ("step1x_jax/planning/estimate.py", "tests/planning"): [
        ("trips forgotten", "_ScheduleWalk.run", "times * trips", "times"),
        ("peak is no floor", "_ScheduleWalk._add_compute", "flops / self.chip.peak", ""),
        ("bytes are no floor", "_ScheduleWalk._add_compute",
         "estimated or 0.0, least", "estimated or 0.0"),
        ("one way of an all-reduce", "_ScheduleWalk._count_collective",
         "2 if kind == 'all-reduce' else 1", "1"),
        ("links for two at once", "_ScheduleWalk.run", "max(now, link_free)", "now", 1),
        ("collectives in fusions forgotten", "_ScheduleWalk._find_synchronous",
         "if i.operation in COLLECTIVES and not _chain(i):", "if False:"),
        ("all is hidden", "_ScheduleWalk._wait", "max(0.0, done - now)", "0.0"),
        ("async copies are free", "_ScheduleWalk._add_compute",
         "self.hbm_bytes += times * sum(...)", "pass"),
    ],
    ("step1x_jax/planning/kernel_cycles.py", "tests/planning"): [
        ("one core", "kernel_time", "-(-heads // chip.cores)", "heads"),
        ("wide units are full", "kernel_time", "min(1.0, width / chip.mxu_width)", "1.0"),
    ],
    ("step1x_jax/planning/chips.py", "tests/launch/test_compile_ahead.py"): [
        ("every group has all links", "Topology.bandwidth", "if reach > 1:", "if True:"),
    ],
    ("step1x_jax/planning/compilation.py", "tests/launch/test_compile_ahead.py"): [
        ("megabytes for gigabytes", "_out_of_memory", "'M': 2**-10", "'M': 1.0"),
        ("temporaries alone", "_out_of_memory", "0.0 if late else arguments", "0.0"),
    ],
    ("step1x_jax/planning/compilation.py", "tests/planning/test_edit.py"): [
        ("the picture in parts", "compile_sample",
         "replicated(mesh)", "jax.sharding.NamedSharding(mesh, jax.P(None, ('data', 'fsdp')))"),
    ],
}
