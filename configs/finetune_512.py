"""Fine-tunes the released v1.1 weights on your own edits at 512 px: four times the edits a step.

    python -m launch.train --config=configs/finetune_512.py --workdir=runs/finetune_512 \\
        --config.data.path=DATA

As finetune_1024.py, for records made with `launch.precompute --size=512`; the shift of the times
follows the number of tokens. Chips as there. Hours: not planned yet; this does, for four edits a
chip. Loss to expect: not measured.

    python -m launch.compile_ahead --config=configs/finetune_512.py --topology=v5p:4x4x4 \\
        --size=512 --examples=4
"""

from configs.finetune_1024 import get_config as at_1024
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    config = at_1024()
    config.data.batch_size = 32
    config.sampling.size = 512
    return config
