"""Our own editor as a generator: a trained model makes candidates for the next round of data.

Curation does not import the editor: who runs the pipeline gives it (launch/curation/editor.py).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.engine.rows import ID, Context, Outcome, Rejected, Row
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.curation.operators.candidates import COLUMNS, check_count, make_candidates
from step1x_jax.errors import UserError, require

Edit = Callable[[Image.Image, str, int], Image.Image]  # picture, instruction, seed -> result


class EditorMaker(Protocol):
    """What loads the editor that a stage's settings name; it is sent to other processes."""

    def identity(self, stage: "OwnEditor") -> Mapping[str, Any]:
        """Digests of its weights.

        Raises:
          UserError: they are not there.
        """

    def load(self, stage: "OwnEditor") -> Edit:
        """The editor.

        Raises:
          UserError: it cannot be loaded.
        """


@dataclasses.dataclass
class OwnEditor(Stage):
    """Replaces the target by what a model makes of the source and the English instruction.

    A mask that was there before is dropped: it was of another target.

    Attributes:
      model: "quickstart", a run's folder, or a file or folder of weights, as for launch.edit.
      ema: of a run: the moving average of its parameters.
      autoencoder: where it is, if not with the model.
      qwen: likewise the folder of Qwen2.5-VL.
      dtype: of the arithmetic; "": float32 on CPUs and bfloat16 elsewhere.
      count: candidates of each row.
      steps: Euler steps; None, here and below: the model's.
      guidance: its scale.
      size: about size^2 pixels are edited.
      gpus: that one of Ray's actors takes.
      tpus: likewise.
    """

    model: str = ""
    ema: bool = False
    autoencoder: str = ""
    qwen: str = ""
    dtype: str = ""
    count: int = 1
    steps: int | None = None
    guidance: float | None = None
    size: int | None = None
    gpus: float = 1.0
    tpus: float = 0.0

    reads: ClassVar = {"source": bytes, "instruction_en": str}
    writes: ClassVar = {**COLUMNS, "mask": bytes}
    many: ClassVar = True
    aside: ClassVar[Sequence[str]] = ("model", "autoencoder", "qwen", "gpus", "tpus")

    def validate(self) -> None:
        """See `Stage`."""
        require(bool(self.model), "model", self.model, "give what launch.edit takes as --model")
        dtypes = ("", "float32", "bfloat16")
        require(self.dtype in dtypes, "dtype", self.dtype, "give float32, bfloat16, or none")
        check_count(self.count)

    def use(self, maker: EditorMaker) -> None:
        """Give a stage, whose config is validated, what loads its editor; then it can be run."""
        vars(self)["maker"] = maker  # no field: it is no setting

    @property
    def resources(self) -> Mapping[str, float]:  # type: ignore[override]  # it is of the settings
        """See `Stage`."""
        return {"CPU": 1, "GPU": self.gpus, "TPU": self.tpus}

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`: what is in the weights counts, not where they are."""
        return self._maker.identity(self)

    def open(self) -> Operator:
        """See `Stage`."""
        edit = self._maker.load(self)

        def candidates(row: Row, context: Context) -> Iterator[Outcome]:
            try:
                source = decode_image(row["source"], f"source of {row[ID]}")
            except UserError as e:
                yield Rejected("unreadable_picture", str(e))
                return
            yield from make_candidates(
                row,
                context,
                self.count,
                "step1x_jax",
                lambda seed: edit(source, row["instruction_en"], seed),
            )

        return each(candidates)

    @property
    def _maker(self) -> EditorMaker:
        maker = vars(self).get("maker")
        if maker is None:
            raise UserError(
                "nothing gave the editor to this stage; run it by launch.curate, or call its use()."
            )
        return maker
