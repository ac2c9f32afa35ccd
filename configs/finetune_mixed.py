"""Fine-tune the released v1.1 weights on your own edits at 1024 and 512 px together.

    python -m launch.precompute --input=large.jsonl --output=data/1024 --size=1024 ...
    python -m launch.precompute --input=small.jsonl --output=data/512 --size=512 ...
    python -m launch.train --config=configs/finetune_mixed.py --workdir=runs/finetune_mixed \\
        --config.data.path=data/1024,data/512

Like finetune_1024.py, for any number of data sets of any sizes; one list may be encoded at several
sizes. All edits are drawn equally often, unless --config.data.weights=(1.,3.) weights the data
sets.

All pictures of a step have the same shape. A step has data.batch_size pictures of the largest
shape, and a multiple of that of a smaller shape, as long as they have no more tokens: three times
as many at 512 px (3 x 2688 of 8832 tokens, with 640 of text each). The loss is the mean over a
step, so an edit at 512 px has a third of the weight of one at 1024 px. The timestep shift depends
on the tokens of the shape. Each shape (up to 11 per size) has its own program, which is compiled
when the shape first occurs. That takes minutes, once per machine.

Chips and memory are those of finetune_1024.py, whose step is the largest here. Hours for 100 000
steps were not planned per shape; they should be close to those of finetune_1024.py, because steps
of all shapes have about as many tokens. The loss to expect was not measured.
"""

from configs.finetune_1024 import get_config as at_1024
from step1x_jax.overrides import override
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    return override(at_1024(), {"data.path": "data/1024,data/512"})
