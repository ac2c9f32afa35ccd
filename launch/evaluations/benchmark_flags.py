"""--dataset and which of its samples: the flags of what works on a benchmark."""

from absl import flags

from step1x_jax.evaluation.benchmarks import BENCHMARKS, GEDIT, Benchmark
from step1x_jax.evaluation.datasets import read_samples
from step1x_jax.evaluation.samples import Sample

DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Folder that save_to_disk wrote, or file or folder of arrow or parquet.",
    required=True,
)
BENCHMARK = flags.DEFINE_enum("benchmark", GEDIT.name, list(BENCHMARKS), "Which benchmark it is.")
SOURCE = flags.DEFINE_string(
    "source", None, "Column of the source picture, as input_image_raw (default: the benchmark's)."
)
TASKS = flags.DEFINE_list("tasks", [], "Only these tasks.")
LANGUAGES = flags.DEFINE_list("languages", [], "Only these languages: en, cn.")
LIMIT = flags.DEFINE_integer(
    "limit", None, "At most so many samples, spread over the tasks.", lower_bound=1
)


def benchmark() -> Benchmark:
    """The benchmark."""
    return BENCHMARKS[BENCHMARK.value]


def samples() -> list[Sample]:
    """The samples that are wanted."""
    return read_samples(
        DATASET.value, benchmark(), SOURCE.value, TASKS.value, LANGUAGES.value, LIMIT.value
    )
