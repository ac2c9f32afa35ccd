"""The flags of launch.curate's actions."""

from absl import flags

from launch.shared.typed_config import define_config, read_typed
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.sheet import MOST

ENGINES = ("inline", "ray")

define_config("seed=1")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, on a disk.", required=True)
ENGINE = flags.DEFINE_enum("engine", "inline", ENGINES, "run: in this process, or in Ray's actors.")
ADDRESS = flags.DEFINE_string(
    "ray_address", "", "run: a Ray to join, auto or HOST:PORT (default: one is started here)."
)
ACTORS = flags.DEFINE_integer(
    "actors", 0, "run: Ray actors per stage (default: all but one CPU).", lower_bound=0
)
JSON = flags.DEFINE_bool("json", False, "stats: print JSON.")
FIGURES = flags.DEFINE_string("figures", None, "stats: a folder for pictures of the figures.")
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "sheet, review, export: the folder to make (default: one in --workdir).",
)
EACH = flags.DEFINE_integer(
    "each", None, "sheet, review: edits of a category (default: 2 and all).",
    lower_bound=1, upper_bound=MOST,
)  # fmt: skip


def read_config() -> CurateConfig:
    """Return the config of the file named by --config, with the flags' overrides, validated.

    Raises:
      UserError: there is no such file, it holds no such config, or a value is impossible.
    """
    return read_typed(CurateConfig)
