"""Models of other libraries: named by id and revision, loaded by the worker that uses them.

torch, transformers and diffusers are imported while a stage opens, and not before.
"""

import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from etils import epath

from step1x_jax.curation.engine.stage import Stage
from step1x_jax.data.paths import walk
from step1x_jax.errors import UserError, require
from step1x_jax.files import fingerprint, user_path

COMMIT = re.compile("[0-9a-f]{40}")
EXTRAS = {"transformers": "torch", "diffusers": "diffusers"}  # library -> extra that brings it
DECIMALS = 4  # of numbers that are stored: the last bits depend on who else was in the batch


@dataclasses.dataclass
class ModelStage(Stage):
    """A stage with a model.

    Attributes:
      model: its id on the Hugging Face Hub, or a folder as `save_pretrained` writes it.
      revision: the commit of the id, 40 hexadecimal digits; of a folder none, its files count.
      gpus: that one of Ray's actors takes; 0: the model computes on the CPU there.
    """

    model: str = ""
    revision: str = ""
    gpus: float = 1.0

    aside: ClassVar[Sequence[str]] = ("model", "revision", "gpus")  # `identity` tells the model

    @property
    def resources(self) -> Mapping[str, float]:  # type: ignore[override]  # it is of the settings
        """See `Stage`."""
        return {"CPU": 1, "GPU": self.gpus}

    def validate(self) -> None:
        """See `Stage`."""
        require(bool(self.model), "model", self.model, "give a model's id, or its folder")
        require(0 <= self.gpus <= 64, "gpus", self.gpus, "give 0 to 64")
        if self.folder is None:
            require(
                COMMIT.fullmatch(self.revision) is not None,
                f"revision of {self.model}",
                self.revision,
                "give the 40 hexadecimal digits of a commit, as the model's page lists them under"
                " Files, History",
            )

    @property
    def folder(self) -> str | None:
        """Of the model, if it is not on the Hub."""
        path = user_path(self.model)
        return path if epath.Path(path).is_dir() else None

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`: of a folder what is in it counts, not where it is."""
        if self.folder is not None:
            return {
                epath.Path(path).relative_to(self.folder).as_posix(): fingerprint(path)
                for path, names, _ in walk(epath.Path(self.folder))
                if names
            }
        return {"model": self.model, "revision": self.revision}

    def load(self, library: str, kind: str, **arguments: Any) -> Any:
        """What `library.kind.from_pretrained` gives for the stage's model.

        Args:
          library: transformers or diffusers.
          kind: a class of it.
          arguments: others of from_pretrained.

        Raises:
          UserError: the library or a part of the model is missing, or does not fit.
        """
        try:
            loaded = getattr(import_library(library, EXTRAS[library]), kind)
            if self.folder is None:
                return loaded.from_pretrained(self.model, revision=self.revision, **arguments)
            return loaded.from_pretrained(self.folder, local_files_only=True, **arguments)
        except UserError:
            raise
        except Exception as e:  # of many kinds, from config to weights
            raise UserError(
                f"{self.model} cannot be loaded as {kind} ({e}); check its id and revision and the"
                " network, or download it again."
            ) from e

    def load_model(
        self, kind: str, library: str = "transformers", dtype: str = "float32", **arguments: Any
    ) -> Any:
        """A model to compute with: on a GPU if torch finds one.

        Args:
          kind: a class of the library.
          library: see `load`.
          dtype: of parameters and arithmetic.
          arguments: others of from_pretrained.

        Raises:
          UserError: see `load`, or weights are missing.
        """
        torch = import_library("torch", EXTRAS[library])
        model, report = self.load(
            library, kind, dtype=getattr(torch, dtype), output_loading_info=True, **arguments
        )
        wrong = sorted(str(name) for name in [*report["missing_keys"], *report["mismatched_keys"]])
        if wrong:
            raise UserError(
                f"the weights of {self.model} do not fit its config.json: {len(wrong)} tensors are"
                f" missing or of another shape, {wrong[0]} among them; download it again."
            )
        return model.eval().to(device())


def import_library(name: str, extra: str) -> Any:
    """A library of an extra.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise UserError(
            f"this stage needs {name} ({e}); install it: pip install 'step1x_jax[{extra}]'."
        ) from e


def device() -> str:
    """Where models compute, in torch's words."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
