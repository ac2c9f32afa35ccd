"""Make the page on which a person decides about each picture: launch/guides/evaluate.md.

python -m launch.evaluate deidentify review --dataset=private --public=public_pictures \
    --findings=work/findings.json --output=work/review

Open work/review/index.html: keep, redact, replace by a look-alike, or drop each picture, rewrite
instructions, and download the decisions. The folder shows the private pictures: keep it with them.
"""

from absl import flags
from tqdm import tqdm

from launch.evaluations import deidentify_flags
from step1x_jax.evaluation.deidentify.findings import read_findings
from step1x_jax.evaluation.deidentify.review import build_review
from step1x_jax.files import user_path

_OUTPUT = flags.DEFINE_string("output", None, "The folder to make.", required=True)
flags.adopt_module_key_flags(deidentify_flags)


def main() -> None:
    """Make the folder."""
    findings = read_findings(user_path(deidentify_flags.FINDINGS.value))
    samples, public = deidentify_flags.samples(findings), deidentify_flags.public()
    with tqdm(total=len(findings.pictures), desc="pictures", unit="picture") as bar:
        build_review(findings, samples, public, user_path(_OUTPUT.value), bar.update)
    print(f"open {_OUTPUT.value}/index.html; it shows private pictures: keep it with them")
