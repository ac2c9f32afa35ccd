"""Make pages on which people rate pictures: launch/guides/evaluate.md.

python -m launch.evaluate study build --dataset=data/gedit --results=results --methods=mine,others \
    --languages=en --limit=110 --participants=20 --samples_each=22 --output=study --key=key.json

The folder has a page for each participant, study/p01.html and so on, which needs no server. It does
not tell which method made what: that is in the key, which must stay with you. Samples are in
the study if all methods have a picture of them.
"""

from absl import flags
from tqdm import tqdm

from launch.evaluations import benchmark_flags
from step1x_jax.evaluation.datasets import find_source
from step1x_jax.evaluation.method_pictures import find_pictures, method_folder
from step1x_jax.evaluation.study.build import build_study
from step1x_jax.evaluation.study.dealing import MOST_PARTICIPANTS
from step1x_jax.files import user_path

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHODS = flags.DEFINE_list("methods", None, "Whose pictures are rated.", required=True)
_PARTICIPANTS = flags.DEFINE_integer(
    "participants",
    None,
    "How many people rate.",
    lower_bound=1,
    upper_bound=MOST_PARTICIPANTS,
    required=True,
)
_EACH = flags.DEFINE_integer(
    "samples_each", 0, "Samples that each of them rates; 0: all.", lower_bound=0
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The folder to make, for participants.", required=True
)
_KEY = flags.DEFINE_string("key", None, "The key's JSON file, outside the folder.", required=True)
flags.adopt_module_key_flags(benchmark_flags)


def main() -> None:
    """Find the pictures, and make pages and key."""
    benchmark = benchmark_flags.benchmark()
    samples = benchmark_flags.samples()
    ids = [sample.id for sample in samples]
    methods = {
        method: find_pictures(method_folder(_RESULTS.value, method), ids, benchmark.layout).get
        for method in dict.fromkeys(_METHODS.value)
    }
    key = build_study(
        tqdm(samples, desc="pictures", unit="sample"),
        methods,
        user_path(_OUTPUT.value),
        user_path(_KEY.value),
        benchmark=benchmark.name,
        source=find_source(benchmark, benchmark_flags.SOURCE.value),
        participants=_PARTICIPANTS.value,
        each=_EACH.value,
    )
    for method, count in key.left_out.items():
        if count:
            print(f"{count} samples are left out: {method} has no readable picture of them")
    each = len(next(iter(key.participants.values())))
    print(
        f"study {key.study}: {len(key.samples)} samples, {len(key.participants)} participants with"
        f" {each} samples each; pages are {_OUTPUT.value}/p*.html, keep {_KEY.value} to yourself"
    )
