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
    ("step1x_jax/sampling/step.py", "tests/sampling"): [
        ("compiled for each scale", "_jitted", "static_argnums=0", "static_argnums=(0, 1)"),
        ("Euler sign", "advance",
         "latents + (t_next - t) * guided", "latents - (t_next - t) * guided"),
        ("condition and negative", "advance",
         "(conditional, unconditional)", "(unconditional, conditional)"),
    ],
    ("step1x_jax/sampling/step.py", DIT): [
        ("time of the step's end", "both_velocities", "t, jnp.float32", "0.9 * t, jnp.float32"),
    ],
    ("step1x_jax/sampling/step.py", "tests/editing/test_editor.py"): [
        ("kept without its noise", "advance",
         "(1 - t_next) * c.reference + t_next * noise", "c.reference"),
        ("mask unheeded", "advance", "if c.keep is None:", "if True:"),
    ],
    ("step1x_jax/sampling/plan.py", "tests/sampling/test_plan.py"): [
        ("damping's end may be skipped", "SamplingPlan.fitted", "{*self.computed, end}",
         "self.computed"),
        ("difference held at damping's end", "SamplingPlan.fitted", "{*self.unconditional, end}",
         "self.unconditional"),
        ("the step before damping's end", "SamplingPlan.fitted",
         "times[:-1] > truncate", "times[1:] > truncate"),
        ("any number of steps", "SamplingPlan.check_steps",
         "if num_steps != self.num_steps:", "if False:"),
        ("noise may be skipped", "SamplingPlan.validate", "steps[:1] != (0,)", "False"),
        ("steps in any order", "SamplingPlan.validate",
         "list(steps) != sorted(set(steps))", "False"),
        ("steps beyond the last", "SamplingPlan.validate",
         "if self.computed[-1] >= self.num_steps:", "if False:"),
        ("unconditional alone", "SamplingPlan.validate",
         "if not set(self.unconditional) <= set(self.computed):", "if False:"),
        ("fewer steps of the same number", "SamplingPlan.scaled",
         "-(-len(old) * num_steps // self.num_steps)", "len(old)"),
        ("two steps at one place", "SamplingPlan.scaled",
         "max(steps[i], steps[i - 1] + 1)", "steps[i]"),
        ("pushed beyond the end", "SamplingPlan.scaled",
         "min(steps[i], last - (count - 1 - i))", "steps[i]"),
        ("linear is held", "evaluations", "if plan.order == 1 and i > 0:", "if False:"),
        ("held is linear", "evaluations", "plan.order == 1 and i > 0", "i > 0"),
        ("stored plan unheeded", "unscaled",
         "stored.get(speed, BUILT_IN[speed])", "BUILT_IN[speed]"),
    ],
    ("step1x_jax/sampling/skipping.py", "tests/sampling/test_plan.py"): [
        ("extrapolated backwards", "skipped_step",
         "latest + move.weight * (latest - before)", "latest - move.weight * (latest - before)"),
        ("unconditional velocity held instead of its difference", "with_held_difference",
         "velocity + (unconditional - conditional)", "unconditional"),
        ("half a batch on each device", "with_held_difference",
         "velocity[:b]", "velocity[-b:]"),
        ("filling goes on", "arrays_of", "Move(end, end, 0.0)", "Move(end, 0.9 * end, 0.0)"),
        ("groups of other lengths in a segment", "arrays_of",
         "len(part[0]) - 1", "len(part[-1]) - 2"),
    ],
    ("step1x_jax/sampling/stored_plans.py", "tests/sampling/test_stored_plans.py"): [
        ("any name is a speed", "read_plans", "if name not in BUILT_IN:", "if False:"),
        ("impossible plans are read", "read_plans",
         "plans[name].validate(f'{path}: {name}')", "pass"),
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
