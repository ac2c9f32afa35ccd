"""Step1X-Edit in JAX: an instruction-based image editor, trained and sampled on TPUs and GPUs.

What notebooks and other programs need can be imported from here: `from step1x_jax import Editor`.
Each name is loaded with its first use, so that importing the package alone stays quick. All of them
are described in launch/guides/api.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

import flax

if TYPE_CHECKING:  # EXPORTS, as type checkers and editors read it
    from step1x_jax.conditioning.encoder import EncoderConfig as EncoderConfig
    from step1x_jax.curation.config import CurateConfig as CurateConfig
    from step1x_jax.curation.config import ExportConfig as ExportConfig
    from step1x_jax.data.pipeline import DataConfig as DataConfig
    from step1x_jax.data.pipeline import make_batches as make_batches
    from step1x_jax.editing.editor import Editor as Editor
    from step1x_jax.editing.editor import load_editor as load_editor
    from step1x_jax.editing.progress import Step as Step
    from step1x_jax.errors import UserError as UserError
    from step1x_jax.models.config import Architecture as Architecture
    from step1x_jax.models.config import AutoencoderConfig as AutoencoderConfig
    from step1x_jax.models.config import LoraConfig as LoraConfig
    from step1x_jax.models.config import ModelConfig as ModelConfig
    from step1x_jax.parallel.mesh import MeshConfig as MeshConfig
    from step1x_jax.parallel.mesh import make_mesh as make_mesh
    from step1x_jax.sampling.config import SamplingConfig as SamplingConfig
    from step1x_jax.sampling.plan import SamplingPlan as SamplingPlan
    from step1x_jax.training.config import CheckpointConfig as CheckpointConfig
    from step1x_jax.training.config import HeldOutConfig as HeldOutConfig
    from step1x_jax.training.config import OptimizerConfig as OptimizerConfig
    from step1x_jax.training.config import TrainConfig as TrainConfig
    from step1x_jax.training.config import TrainingConfig as TrainingConfig
    from step1x_jax.training.loop import train as train
    from step1x_jax.training.step.timesteps import TimestepConfig as TimestepConfig
    from step1x_jax.weights.load import load_autoencoder as load_autoencoder
    from step1x_jax.weights.load import load_model as load_model
    from step1x_jax.weights.open import Weights as Weights
    from step1x_jax.weights.open import open_weights as open_weights

# Variables carry logical axis names; shardings are applied by jit(out_shardings=...), never at
# construction, because nothing in models/ knows a mesh.
flax.config.update("flax_always_shard_variable", False)

__version__ = "0.3.0"

# Name -> the module that defines it; in the order of launch/guides/api.md.
EXPORTS = {
    "Editor": "editing.editor",
    "load_editor": "editing.editor",
    "Step": "editing.progress",
    "SamplingConfig": "sampling.config",
    "SamplingPlan": "sampling.plan",
    "EncoderConfig": "conditioning.encoder",
    "open_weights": "weights.open",
    "Weights": "weights.open",
    "load_model": "weights.load",
    "load_autoencoder": "weights.load",
    "Architecture": "models.config",
    "ModelConfig": "models.config",
    "LoraConfig": "models.config",
    "AutoencoderConfig": "models.config",
    "MeshConfig": "parallel.mesh",
    "make_mesh": "parallel.mesh",
    "train": "training.loop",
    "TrainConfig": "training.config",
    "OptimizerConfig": "training.config",
    "TrainingConfig": "training.config",
    "CheckpointConfig": "training.config",
    "HeldOutConfig": "training.config",
    "TimestepConfig": "training.step.timesteps",
    "DataConfig": "data.pipeline",
    "make_batches": "data.pipeline",
    "CurateConfig": "curation.config",
    "ExportConfig": "curation.config",
    "UserError": "errors",
}
__all__ = [*EXPORTS]

if not TYPE_CHECKING:  # to type checkers it would be a promise of any name

    def __getattr__(name: str) -> Any:
        """Load one of EXPORTS (PEP 562)."""
        if name not in EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{EXPORTS[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
