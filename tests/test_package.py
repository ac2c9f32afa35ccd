"""What importing costs: no torch, transformers or test packages on the way."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "ray", "matplotlib", "tensorboardX", "grain", "orbax", "pyarrow")


def imported_by(statement):
    code = f"{statement}; import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_package_itself_is_light():
    assert set(imported_by("import step1x_jax")) <= {"orbax"}  # flax brings it


def test_models_conversion_and_sampling_need_no_torch():
    statement = (
        "import step1x_jax.models.step1x_edit, step1x_jax.weights.load,"
        " step1x_jax.sampling.sampler, step1x_jax.conditioning.encoder,"
        " step1x_jax.editing.loading, step1x_jax.training.loop, step1x_jax.data.pipeline,"
        " step1x_jax.data.precompute"
    )
    assert not {"torch", "transformers", "ray", "pyarrow"} & set(imported_by(statement))
