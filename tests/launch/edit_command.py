"""launch.edit in the tests' own process, with a tiny random model."""

import contextlib
import importlib
import json
import sys

from absl import flags
from flax import nnx

from step1x_jax.editing.editor import Editor
from step1x_jax.models.autoencoder import Autoencoder
from tests.editing.test_editor import AUTOENCODER, SAMPLING, Words, random_model

MODULES = (  # which define flags
    "launch.edit",
    "launch.shared.editor_flags",
    "launch.shared.sampling_flags",
    "launch.shared.weights_flags",
)


@contextlib.contextmanager
def alone(modules=MODULES):
    """The first module, with flags of its own: other commands may have defined theirs."""
    before = dict(vars(flags.FLAGS))
    others = {name: _forget(name) for name in modules if name in sys.modules}
    vars(flags.FLAGS).update(vars(flags.FlagValues()))
    try:
        yield importlib.import_module(modules[0])
    finally:
        vars(flags.FLAGS).clear()
        vars(flags.FLAGS).update(before)
        for name in modules:
            _forget(name)
        for name, module in others.items():
            sys.modules[name] = module
            folder, _, last = name.rpartition(".")
            setattr(sys.modules[folder], last, module)


def _forget(name):
    """Takes a module out, so that the next import of it runs it again."""
    folder, _, last = name.rpartition(".")
    delattr(sys.modules[folder], last)
    return sys.modules.pop(name)


class Command:
    """Calls it as often as one likes.

    Attributes:
      loaded: the arguments of each loading.
    """

    def __init__(self, module):
        self._module, self.loaded = module, []
        autoencoder = Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))
        self.editor = Editor(random_model(), autoencoder, Words(), SAMPLING)
        module.Editor = self  # stands for the class: `load` is all that is called

    def load(self, path, *, say, **options):
        self.loaded.append({"path": path} | options)
        say("what was loaded")
        return self.editor

    def __call__(self, *arguments):
        """The exit code of main; the tiny model has the quickstart's name and settings."""
        model = [] if any("--like" in a or "--model" in a for a in arguments) else ["quickstart"]
        defaults = [f"--model={name}" for name in model]
        if not any("--like" in a for a in arguments):
            defaults += ["--size=64", "--steps=2"]
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["edit", *defaults, *map(str, arguments)])
        return self._module.main()

    def report(self, folder):
        """Lines of a report by the names of their results."""
        lines = map(json.loads, (folder / "report.jsonl").read_text().splitlines())
        return {line["output"]: line for line in lines}
