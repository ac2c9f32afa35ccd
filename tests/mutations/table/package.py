"""Mutations of the files beside the rooms of the package."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/overrides.py", "tests/test_overrides.py"): [
        ("a config changed in place", "_override",
         "{**node, field: after}", "node.update({field: after}) or node"),
        ("no such field", "_override", "field not in names", "False"),
        ("sections replaced by a value", "_override",
         "_override(before, rest, value, name) if rest else value", "value"),
    ],
    ("step1x_jax/__init__.py", "tests/test_package.py"): [
        ("any name is looked for", "__getattr__", "if name not in EXPORTS:", "if False:"),
        ("type checkers miss an export", "",
         "from step1x_jax.editing.editor import Editor as Editor",
         "from step1x_jax.editing.editor import Editor"),
    ],
    ("step1x_jax/files.py", "tests/launch/test_convert.py"): [
        ("folders on object stores", "check_local", "if is_remote(folder):", "if False:"),
    ],
    ("step1x_jax/files.py", "tests/data/test_precompute.py"): [
        ("fingerprint without end", "fingerprint", "max(size - MIB, 0)", "0"),
    ],
    ("step1x_jax/files.py", "tests/test_files.py"): [
        ("listings remembered", "", "'use_listings_cache', False", "'use_listings_cache', True"),
        ("errors of stores let through", "_os_errors",
         "except Exception as e:", "except ZeroDivisionError as e:"),
        ("put at every row", "Growing.put",
         "now or time.monotonic() - self._put_at > BETWEEN_PUTS", "True"),
        ("objects told apart by size", "identity", "'generation', 'etag'", ""),
        ("tried with a trace", "check_writable", "probe.unlink(missing_ok=True)", "pass"),
    ],
}
