"""Initial parameters of a run, from training.start_from and lora.start_from."""

from collections.abc import Callable

from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.training.config import TrainConfig
from step1x_jax.weights.config_json import to_json
from step1x_jax.weights.flux import FluxStart
from step1x_jax.weights.lora.adapters import load_adapters
from step1x_jax.weights.open import Weights, check_is_model, official_shapes, open_weights
from step1x_jax.weights.run.description import check_same_arrays
from step1x_jax.weights.run.fingerprints import name_arrays
from step1x_jax.weights.run.folder import is_run
from step1x_jax.weights.run.reader import RunFolder


def open_start_weights(config: TrainConfig, say: Callable[[str], None]) -> Weights:
    """Open the weights that training.start_from names.

    Tensors that FLUX.1 lacks are initialized at random, but not in a base of adapters, because the
    base must be reproducible later.

    Args:
      config: the run's config.
      say: prints warnings and which tensors are initialized at random.

    Raises:
      UserError: there are no weights, or they belong to another model.
    """
    model = config.model
    weights = open_weights(
        config.training.start_from,
        exact=model.param_dtype == "float32",
        sizes=model,
        flux=None if config.lora.rank else FluxStart(model.version, config.training.seed),
        say=say,
    )
    check_is_model(weights)
    assert isinstance(weights.config, ModelConfig)
    if official_shapes(weights.config) != official_shapes(model):
        there, here = to_json(weights.config), to_json(model)
        sizes = ", ".join(
            f"model.{name}={value} (here {here.get(name)})"
            for name, value in there.items()
            if value != here.get(name)
        )
        raise UserError(
            f"{weights.path} is of another model: its sizes are {sizes}; set these in the config,"
            " or use a config that has them (configs/quickstart.py for the model that ships)."
        )
    return weights


def load_first_adapters(
    config: TrainConfig, wanted: nnx.State, say: Callable[[str], None]
) -> nnx.State:
    """Load the adapters that lora.start_from names.

    Args:
      config: the run's config.
      wanted: shapes, dtypes and shardings of the adapters.
      say: prints a warning about a damaged checkpoint.

    Raises:
      UserError: the adapters belong to another model, or their settings differ from config.lora.
    """
    source = config.lora.start_from
    if not is_run(source):
        return load_adapters(source, wanted, config.model, config.lora)
    run = RunFolder(source, say=say)
    run.check_adapters()
    for field in ("rank", "alpha"):
        there, here = getattr(run.lora, field), getattr(config.lora, field)
        if there != here:
            raise UserError(
                f"the adapters in {source} have {field} {there:g}, the config {here:g}; set"
                f" lora.{field}={there:g}."
            )
    check_same_arrays(run.arrays, name_arrays(wanted), run.workdir)
    return run.restore(wanted)
