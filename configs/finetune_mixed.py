"""Fine-tunes the released v1.1 weights on your own edits at 1024 and 512 px together.

    python -m launch.precompute --input=large.jsonl --output=data/1024 --size=1024 ...
    python -m launch.precompute --input=small.jsonl --output=data/512 --size=512 ...
    python -m launch.train --config=configs/finetune_mixed.py --workdir=runs/finetune_mixed \\
        --config.data.path=data/1024,data/512

As finetune_1024.py, for any number of data sets of any sizes; one list may be encoded at several.
Every edit comes equally often, or each data set as often as --config.data.weights=(1.,3.) says.

A step holds pictures of one shape: data.batch_size of the largest, and of smaller ones so many
times more as have no more tokens: at 512 px three times (3 x 2688 tokens with the text's 640, of
8832). The loss is the mean over a step, so an edit at 512 px weighs a third of one at 1024. The
shift of the times follows the tokens of each shape. Each shape has a program of its own, up to 11
for each size, which is compiled when it is first met: minutes each, once on a machine.

Chips and memory as finetune_1024.py, whose step is the largest here. Hours for 100 000 steps:
not planned for each shape; about those of finetune_1024.py, as a step of any shape has about as
many tokens. Loss to expect: not measured.
"""

from configs.finetune_1024 import get_config as at_1024
from step1x_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    config = at_1024()
    config.data.path = "data/1024,data/512"
    return config
