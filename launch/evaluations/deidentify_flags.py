"""--dataset, --findings and --public: the flags of what works on the findings of a scan."""

from absl import flags

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import BENCHMARKS, Benchmark
from step1x_jax.evaluation.datasets import read_samples
from step1x_jax.evaluation.deidentify.findings import Findings
from step1x_jax.evaluation.samples import Sample
from step1x_jax.files import user_path

DATASET = flags.DEFINE_string("dataset", None, "The data set that was scanned.", required=True)
FINDINGS = flags.DEFINE_string("findings", None, "What the scan wrote.", required=True)
PUBLIC = flags.DEFINE_string(
    "public", None, "Folder of pictures that may be published, as the scan was given it."
)


def benchmark(findings: Findings) -> Benchmark:
    """Return the benchmark of the data set."""
    if findings.benchmark not in BENCHMARKS:
        raise UserError(f"{FINDINGS.value} is of no benchmark that is known here; scan again.")
    return BENCHMARKS[findings.benchmark]


def samples(findings: Findings) -> list[Sample]:
    """Read all samples of the data set."""
    return read_samples(DATASET.value, benchmark(findings), findings.source)


def public() -> str | None:
    """The folder of public pictures."""
    return user_path(PUBLIC.value) if PUBLIC.value else None
