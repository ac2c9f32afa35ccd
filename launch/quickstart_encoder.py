"""Make the quickstart's small Qwen2.5-VL with random weights; its result ships in assets/.

python -m launch.quickstart_encoder --output=step1x_jax/assets/quickstart/encoder
"""

from absl import flags
from etils import epath

from launch.shared.command import run
from step1x_jax.files import file_size
from step1x_jax.quickstart import small_encoder

_OUTPUT = flags.DEFINE_string("output", None, "Folder to make or to replace.", required=True)


def main() -> None:
    """Write the folder."""
    small_encoder.write_encoder(_OUTPUT.value)
    size = sum(file_size(path) for path in epath.Path(_OUTPUT.value).iterdir())
    print(f"{_OUTPUT.value}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    run(main)
