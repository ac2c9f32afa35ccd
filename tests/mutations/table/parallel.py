"""Mutations of step1x_jax/parallel/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/parallel/rules.py", "tests/parallel/test_rules.py"): [
        ("weights used as stored", "partition_spec", "getattr(RULES[name], column)",
         "RULES[name].stored"),
        ("modulations gathered", "", "SHARDS, SHARDS", "SHARDS"),
    ],
    ("step1x_jax/parallel/rules.py", "tests/parallel"): [
        ("parameters not split", "", "'embed': Rule(stored=SHARDS)", "'embed': REPLICATED"),
        ("batch not over fsdp", "batch_sharding",
         "PartitionSpec(BATCH_AXES)", "PartitionSpec('data')"),
        ("colliding axes", "partition_spec", "if len(used) != len(set(used)):", "if False:"),
    ],
    ("step1x_jax/parallel/compiler_options.py", "tests/parallel/test_compiler_options.py"): [
        ("no options", "compiler_options", "TABLE.get(device.platform, {})", "{}"),
    ],
    ("step1x_jax/parallel/mesh.py", "tests/parallel/test_mesh.py"): [
        ("parameters over slices", "make_mesh", "if sizes[0] % slices:", "if False:"),
        ("fsdp without end", "make_mesh", "math.gcd(..., MAX_FSDP)", "..."),
    ],
    ("step1x_jax/parallel/compile_cache.py", "tests/parallel/test_compile_cache.py"): [
        ("nothing is kept", "enable_compile_cache",
         "config.update('jax_compilation_cache_dir', ...)", "config.update('jax_dump_ir_to', ...)"),
        ("a user's folder is not asked for", "enable_compile_cache",
         "if config.jax_compilation_cache_dir is None:", "if True:"),
        ("what compiles within a second is not kept", "enable_compile_cache",
         "config.update('jax_persistent_cache_min_compile_time_secs', MIN_COMPILE_SECONDS)",
         "pass"),
    ],
    ("step1x_jax/parallel/host_memory.py", "tests/editing/test_places.py"): [
        ("copies on the device kept", "on_device", "x.delete()", "pass"),
    ],
}
