"""Commands of launch.evaluate in the tests' own process."""

import contextlib

from absl import flags

from tests.launch.edit_command import alone

# Which define flags: the command first.
SHARED = (
    "launch.evaluations.benchmark_flags",
    "launch.shared.editor_flags",
    "launch.shared.sampling_flags",
    "launch.shared.weights_flags",
)
JUDGE = (
    "launch.evaluations.benchmark_flags",
    "launch.evaluations.judge_flags",
    "launch.evaluations.judge_against",
)


@contextlib.contextmanager
def evaluate(name, shared=()):
    """A function from arguments to the exit code, and the module.

    Args:
      name: of the command, as report.
      shared: modules with flags that it imports.
    """
    with alone((f"launch.evaluations.{name}", *shared)) as module:

        def call(*arguments):
            for flag in flags.FLAGS:
                flags.FLAGS[flag].unparse()
            flags.FLAGS(["evaluate", *map(str, arguments)])
            return module.main() or 0

        yield call, module
