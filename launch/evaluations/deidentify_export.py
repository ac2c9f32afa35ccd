"""Write what was reviewed as a benchmark without private pictures: launch/guides/evaluate.md.

python -m launch.evaluate deidentify export --dataset=private --public=public_pictures \
    --findings=work/findings.json --decisions=work/decisions-1a2b3c4d.json \
    --audit=work/audit.jsonl --output=benchmark

Only samples with a decision are written, their pictures anew from their pixels, without metadata,
with what was redacted burnt in. The audit log only grows: an entry for each sample, each with the
hash of the one before. Redaction changes the benchmark: scores are not those of the originals.
"""

import hashlib
import os

from absl import flags
from tqdm import tqdm

from launch.evaluations import deidentify_flags
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.evaluation.dataset_files import WRITERS
from step1x_jax.evaluation.deidentify.decisions import read_decisions
from step1x_jax.evaluation.deidentify.export import export_dataset
from step1x_jax.evaluation.deidentify.findings import read_findings
from step1x_jax.files import user_path
from step1x_jax.json_files import LARGEST

_DECISIONS = flags.DEFINE_multi_string(
    "decisions", None, "What the page exported; may be given several times.", required=True
)
_AUDIT = flags.DEFINE_string("audit", None, "The audit log, outside of --output.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to make.", required=True)
_TO = flags.DEFINE_enum(
    "to", "parquet", list(WRITERS), "One parquet file, or a list and picture files."
)
flags.adopt_module_key_flags(deidentify_flags)


def main() -> None:
    """Read findings and decisions, and write data set and log."""
    findings_path = user_path(deidentify_flags.FINDINGS.value)
    findings = read_findings(findings_path)
    paths = list(map(user_path, _DECISIONS.value))
    decisions = read_decisions(paths, findings)
    inputs = {os.path.basename(path): hash_file(path) for path in (findings_path, *paths)}
    samples = deidentify_flags.samples(findings)
    with tqdm(total=len(samples), desc="exporting", unit="sample") as bar:
        made = export_dataset(
            samples,
            findings,
            decisions,
            benchmark=deidentify_flags.benchmark(findings),
            public_folder=deidentify_flags.public(),
            folder=user_path(_OUTPUT.value),
            audit=user_path(_AUDIT.value),
            write=WRITERS[_TO.value],
            inputs=inputs,
            tell=bar.update,
        )
    actions = ", ".join(f"{count} {action}" for action, count in sorted(made.actions.items()))
    print(
        f"{_OUTPUT.value}: {made.rows} samples ({actions}; {made.rewritten} instructions rewritten)"
    )
    print(
        f"left out: {made.dropped} dropped, {made.not_reviewed} not reviewed, {made.not_scanned}"
        f" not scanned; audit log {_AUDIT.value} ends with {made.head[:16]}"
    )


def hash_file(path: str) -> str:
    """SHA-256 of a file of JSON."""
    return hashlib.sha256(read_input_file(path, "a JSON file", LARGEST)).hexdigest()
