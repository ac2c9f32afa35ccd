"""Mutations of step1x_jax/quickstart/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/quickstart/report.py", "tests/quickstart/test_report.py"): [
        ("orders of shapes", "score_edits",
         "[scores[i] for i in range(len(edits))]", "list(scores.values())"),
    ],
    ("step1x_jax/quickstart/held_out.py", "tests/quickstart/test_held_out.py"): [
        ("one language", "read_held_out",
         "crops.index(edit.crop) + kinds.index(edit.kind)", "crops.index(edit.crop)"),
    ],
}
