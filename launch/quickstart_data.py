"""Makes the quickstart's edit data set from photographs that ship in Python packages.

python -m launch.quickstart_data --output=runs/quickstart/pictures
"""

from absl import flags
from tqdm import tqdm

from launch.command import run
from step1x_jax.quickstart import dataset
from step1x_jax.quickstart.edits import KINDS

_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_CROPS = flags.DEFINE_integer(
    "crops", 200, "Training crops; each is edited in every kind.", lower_bound=1
)
_SIZE = flags.DEFINE_integer(
    "size", 128, "Side of the pictures in pixels.", lower_bound=32, upper_bound=512
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the crops and of the choice of phrasings.", lower_bound=0
)


def main() -> None:
    """Writes the folder, or says that it is there."""
    settings = dataset.Settings(crops=_CROPS.value, size=_SIZE.value, seed=_SEED.value)
    finished = 0
    progress = tqdm(
        dataset.write(_OUTPUT.value, settings),
        total=dataset.total_crops(settings),
        desc="pictures",
        unit="crop",
        delay=0.5,
    )
    for finished in progress:  # noqa: B007 (the last value is used below)
        pass
    if finished:
        print(f"{finished * len(KINDS)} edits of {finished} crops in {_OUTPUT.value}")
    else:
        print(f"{_OUTPUT.value} is complete already")


if __name__ == "__main__":
    run(main)
