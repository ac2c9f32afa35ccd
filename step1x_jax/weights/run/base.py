"""The weights to which a run's adapters belong: where they are; whether they are still those."""

from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from tqdm import tqdm

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.weights.filling import our_block
from step1x_jax.weights.layouts.official import by_parameter, model_table
from step1x_jax.weights.readers import Tensors
from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.description import different_base, other_base
from step1x_jax.weights.run.fingerprints import About, add, fingerprint_of
from step1x_jax.weights.run.folder import folder_of
from step1x_jax.weights.run.reader import RunFolder


def find_base(run: RunFolder, given: epath.PathLike | None = None) -> epath.Path:
    """Where the base of a run's adapters lies: `given`, or where the run found it.

    Raises:
      UserError: there is nothing.
    """
    source = str(given or run.description.start_from)
    if not source or not epath.Path(source).exists():
        raise UserError(
            f"{run.workdir} holds adapters, and the weights to which they belong are not in"
            f" {source or 'it'} (any more); say where they are (--base= of launch.edit and of"
            " launch.convert, which makes a file of both to train on)."
        )
    return epath.Path(source)


def check_base(run: RunFolder, tensors: Tensors) -> None:
    """Compares weights with those that a run's adapters were trained on.

    They are read once more for that; each process takes its share of the parameters.

    Args:
      run: of adapters.
      tensors: official ones, in the dtype in which the run had them.

    Raises:
      UserError: they are others.
    """
    description = run.description
    if not description.base:
        return  # a LoRA of others does not say what it was trained on
    names = list(by_parameter(model_table(run.model)))
    groups = {name: [name] for name in names}  # by the name under which the run has them
    if description.is_earlier:
        groups = earlier.group_names(names)
    order = list(groups)
    # each at least one: a base that is a run is opened by all processes together
    mine = order[jax.process_index() :: jax.process_count()] or order[:1]
    here = [name for group in mine for name in groups[group]]
    found = different_base(description, describe_parameters(tensors, run.model, here))
    first = len(order) if found is None else order.index(found)
    if jax.process_count() > 1:
        first = int(np.min(multihost_utils.process_allgather(np.array(first))))
    if first < len(order):
        raise other_base(description, folder_of(run.workdir) / str(run.step), order[first])


def describe_parameters(tensors: Tensors, config: ModelConfig, names: Iterable[str]) -> About:
    """As `describe`, of our parameters in official tensors, block by block.

    Args:
      tensors: official ones.
      config: sizes.
      names: of the parameters.
    """
    about: About = {}
    parameters = by_parameter(model_table(config))
    quiet = jax.process_index() > 0
    for name in tqdm(names, desc="comparing the base", unit="parameter", disable=quiet):
        bits, sources = [0, 0], parameters[name]
        for layer, source in enumerate(sources):
            block = our_block(source, tensors)
            shape = list(block.shape)
            if len(sources) > 1:
                shape[0] = len(sources)
            bits = add(bits, fingerprint_of(block, [layer], shape))
        about[name] = {"shape": shape, "dtype": str(block.dtype), "fingerprint": bits}
    return about
