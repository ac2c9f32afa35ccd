"""Tests that many mutations name."""

OPERATORS = "tests/curation/operators"
ENGINE = "tests/curation/engine"
GATES = "tests/curation/embedded/test_gates.py"
# These need extras: those torch, diffusers and curation.
WITH_EXTRAS = (
    OPERATORS,
    f"{ENGINE}/test_driver.py",
    f"{ENGINE}/test_crashes.py",
    "tests/curation/embedded",
    "tests/curation/stages/test_plain_edits.py",
)

DIT = "tests/test_golden.py::test_published_numbers[dit_v1_1]"
DIT_0 = "tests/test_golden.py::test_published_numbers[dit_v1_0]"
VAE = "tests/test_golden.py::test_published_numbers[vae]"
MLLM = "tests/test_golden.py::test_published_numbers[mllm]"
GOLDEN_LORA = "tests/test_golden.py::test_published_numbers[lora]"
HOPPER = "tests/kernels/test_gpu_interpreted.py"
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
