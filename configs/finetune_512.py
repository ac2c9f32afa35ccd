"""Fine-tune the released v1.1 weights on your own edits at 512 px, with four times the batch size.

    python -m launch.train --config=configs/finetune_512.py --workdir=runs/finetune_512 \\
        --config.data.path=DATA

Like finetune_1024.py, for records made with `launch.precompute --size=512`. The timestep shift
depends on the number of tokens. The same chips are supported. Hours for 100 000 steps, estimated by
`python -m launch.compile_ahead --config=configs/finetune_512.py --size=512 --examples=N
--topology=...` (a model of the compiled program, not a measurement), with N edits a chip:

    # hours finetune_512 512
    slice       edits a chip   hours
    v5p:2x2x1   4              50
    v5p:2x4x4   4              45
    v5e:16x16   3              87
    v6e:8x8     4              35
    v6e:16x16   4              32
    # end

The loss to expect was not measured.
"""

from configs.finetune_1024 import get_config as at_1024
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    return override(at_1024(), {"data.batch_size": 32, "sampling.size": 512})
