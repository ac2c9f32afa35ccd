"""The weights on which a run's adapters were trained: where they are, and whether they are the
same.
"""

from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from tqdm import tqdm

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.weights.filling import read_block
from step1x_jax.weights.layouts.official import model_table, slices_by_parameter
from step1x_jax.weights.readers import Tensors
from step1x_jax.weights.run import earlier
from step1x_jax.weights.run.description import different_base, different_base_error
from step1x_jax.weights.run.fingerprints import ArrayInfos, combine, fingerprint_of
from step1x_jax.weights.run.folder import checkpoints_folder
from step1x_jax.weights.run.reader import RunFolder


def find_base(run: RunFolder, given: epath.PathLike | None = None) -> epath.Path:
    """Return the path of the base of a run's adapters.

    Args:
      run: of adapters.
      given: the path; None: where the run found it.

    Raises:
      UserError: it does not exist.
    """
    source = str(given or run.description.start_from)
    if not source or not epath.Path(source).exists():
        raise UserError(
            f"{run.workdir} holds adapters, but the weights on which they were trained are not in"
            f" {source or 'it'} (any more); give them as --base to launch.edit or launch.convert,"
            " which writes both merged to a file to train from."
        )
    return epath.Path(source)


def check_base(run: RunFolder, tensors: Tensors) -> None:
    """Compare weights with those on which a run's adapters were trained.

    The weights are read for this, each process a share of the parameters.

    Args:
      run: of adapters.
      tensors: the official tensors, in the dtype in which the run had them.

    Raises:
      UserError: they differ.
    """
    description = run.description
    if not description.base:
        return  # a converted LoRA does not say what it was trained on
    names = list(slices_by_parameter(model_table(run.model)))
    groups = {name: [name] for name in names}  # by the name of the run's array
    if description.is_earlier:
        groups = earlier.group_by_earlier_name(names)
    order = list(groups)
    # At least one per process: if the base is a run, all processes must open it together.
    mine = order[jax.process_index() :: jax.process_count()] or order[:1]
    here = [name for group in mine for name in groups[group]]
    found = different_base(description, describe_parameters(tensors, run.model, here))
    first = len(order) if found is None else order.index(found)
    if jax.process_count() > 1:
        first = int(np.min(multihost_utils.process_allgather(np.array(first))))
    if first < len(order):
        raise different_base_error(
            description, checkpoints_folder(run.workdir) / str(run.step), order[first]
        )


def describe_parameters(tensors: Tensors, config: ModelConfig, names: Iterable[str]) -> ArrayInfos:
    """Return what `describe_arrays` returns for our parameters, computed from official tensors
    block by block.

    Args:
      tensors: the official tensors.
      config: sizes.
      names: of the parameters.
    """
    infos: ArrayInfos = {}
    parameters = slices_by_parameter(model_table(config))
    quiet = jax.process_index() > 0
    for name in tqdm(names, desc="comparing the base", unit="parameter", disable=quiet):
        fingerprint, sources = [0, 0], parameters[name]
        for layer, source in enumerate(sources):
            block = read_block(source, tensors)
            shape = list(block.shape)
            if len(sources) > 1:
                shape[0] = len(sources)
            fingerprint = combine(fingerprint, fingerprint_of(block, [layer], shape))
        infos[name] = {"shape": shape, "dtype": str(block.dtype), "fingerprint": fingerprint}
    return infos
