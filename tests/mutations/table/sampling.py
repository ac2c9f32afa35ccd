"""Mutations of step1x_jax/sampling/."""

from tests.mutations.suites import DIT
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/sampling/guidance.py", "tests/sampling"): [
        ("guidance from the condition", "guide", "unconditional + ...", "conditional + ..."),
        ("damping at truncate", "guide", "t > guidance.truncate", "t >= guidance.truncate"),
        ("damping exponent", "guide", "jnp.maximum(norm, 1) ** 0.4", "jnp.maximum(norm, 1) ** 0.5"),
        ("norm over the tokens", "guide", "axis=-1", "axis=1"),
    ],
    ("step1x_jax/sampling/sampler.py", "tests/sampling"): [
        ("compiled for each scale", "_jitted", "static_argnums=0", "static_argnums=(0, 1)"),
        ("Euler sign", "euler_step",
         "latents + (t_next - t) * guided", "latents - (t_next - t) * guided"),
        ("condition and negative", "euler_step",
         "(conditional, unconditional)", "(unconditional, conditional)"),
    ],
    ("step1x_jax/sampling/sampler.py", DIT): [
        ("time of the step's end", "euler_step", "t, jnp.float32", "t_next, jnp.float32"),
    ],
    ("step1x_jax/sampling/sampler.py", "tests/editing/test_editor.py"): [
        ("kept without its noise", "euler_step",
         "(1 - t_next) * c.reference + t_next * noise", "c.reference"),
        ("mask unheeded", "euler_step", "if c.keep is None:", "if True:"),
    ],
    ("step1x_jax/sampling/noise.py", "tests/sampling/test_noise.py"): [
        ("noise seeds", "noise_from_seed", "first + i", "first"),
        ("upper half of a seed", "_key", "seed >> 32", "0"),
        ("truths are seeds", "check_seed", "isinstance(seed, bool)", ""),
        ("noise file's layout", "noise_given",
         "values.transpose(0, 2, 3, 1)", "values.reshape(b, h, w, c)"),
        ("noise that is not finite", "read_noise", "if not np.isfinite(noise).all():", "if False:"),
        ("any dtype is noise", "read_noise",
         "if dtype.kind != 'f' or dtype.itemsize > 8:", "if False:"),
    ],
    ("step1x_jax/sampling/schedule.py",
     "tests/test_golden.py::test_published_numbers[schedule.json]"): [
        ("mu at 4096", "resolution_mu", "1.15 - 0.5", "1.16 - 0.5"),
        ("shift inverted", "time_shift", "s * t / (1 + (s - 1) * t)", "t / (s - (s - 1) * t)"),
    ],
    ("step1x_jax/sampling/config.py", "tests/sampling"): [
        ("truncation swapped", "", "'v1.0': 1.0, 'v1.1': 0.93", "'v1.0': 0.93, 'v1.1': 1.0"),
    ],
}
