"""A loaded editor: pictures and instructions in, edited pictures out."""

import contextlib
import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from PIL import Image

from step1x_jax.conditioning.encoder import PictureTakesAllTokens, TextEncoder
from step1x_jax.conditioning.images import PIXELS_PER_LATENT, from_array, to_array
from step1x_jax.editing.batches import batches
from step1x_jax.editing.conditioned import Conditioner
from step1x_jax.editing.finishing import Finishing, finished
from step1x_jax.editing.finite import check_finite
from step1x_jax.editing.known_edits import Edits, warn_of_unknown
from step1x_jax.editing.loading import load_parts
from step1x_jax.editing.masks import latent_mask
from step1x_jax.editing.memory import memory_explained
from step1x_jax.editing.old_names import rename_argument
from step1x_jax.editing.progress import Step, expected
from step1x_jax.editing.requests import EditRequest, edit_requests, generate_requests
from step1x_jax.errors import UserError
from step1x_jax.json_files import build
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.autoencoder_tiles import (
    LARGEST_WHOLE_PIXELS,
    decode_tiled,
    encode_tiled,
)
from step1x_jax.models.embeddings import PATCH
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.models.text_tokens import text_bucket
from step1x_jax.parallel.host_memory import on_device
from step1x_jax.parallel.mesh import MeshConfig
from step1x_jax.parallel.rules import replicated
from step1x_jax.sampling.calibration import Trajectory, record
from step1x_jax.sampling.config import SamplingConfig
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.noise import noise_from_seed, noise_given
from step1x_jax.sampling.plan import EXACT, SamplingPlan, plan_of
from step1x_jax.sampling.sampler import sample_with_progress
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions

# Pillow's filters on the way in, as the two releases use them.
RESAMPLING = {"v1.0": Image.Resampling.BICUBIC, "v1.1": Image.Resampling.LANCZOS}
BLACK = (1024, 1024)  # the picture that the language model sees where there is none, as published
# Argument of `Editor.edit` -> field of SamplingConfig, where that is called otherwise.
_FIELDS = {"steps": "num_steps", "guidance_scale": "guidance"}

_encode = nnx.jit(Autoencoder.encode)
_decode = nnx.jit(Autoencoder.decode)
_encode_tiled, _decode_tiled = nnx.jit(encode_tiled), nnx.jit(decode_tiled)


@dataclasses.dataclass(repr=False)
class Editor:
    """Model, autoencoder and encoder, ready to edit; `Editor.load` makes one of a path.

    Attributes:
      model: connector and DiT.
      autoencoder: from pictures to latents and back.
      encoder: of pictures with instructions.
      sampling: the defaults of what `edit` is not told.
      mesh: on which the model is placed; None: on one device.
      on_host: the model is in the host's memory, and on the devices while it samples.
      known_edits: of a small model, what it was trained for; empty: not known.
      about: lines on what was loaded.
      plans: what the model's speeds mean, where that is not what is built in.
    """

    model: Step1XEdit
    autoencoder: Autoencoder
    encoder: TextEncoder
    sampling: SamplingConfig
    mesh: Mesh | None = None
    on_host: bool = False
    known_edits: Edits = ()
    about: Sequence[str] = ()
    plans: Mapping[str, SamplingPlan] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._conditioner = Conditioner(self.encoder, self.encode)

    def __repr__(self) -> str:
        s = self.sampling
        defaults = f"{self.model.config.version}, size {s.size}, {s.num_steps} steps"
        return "\n".join([f"Editor: {defaults}, guidance {s.guidance:g}", *self.about])

    @classmethod
    def load(
        cls,
        path: str,
        *,
        base: str | None = None,
        loras: Sequence[Any] = (),
        ema: bool = False,
        dtype: str | None = None,
        mesh: Mesh | MeshConfig | str | None = None,
        text_encoder: str | None = None,
        vae: str | None = None,
        cache: str | None = None,
        quantize: str | None = None,
        offload: bool = False,
        say: Callable[[str], object] = logging.info,
    ) -> "Editor":
        """Load everything that is needed to edit pictures; its repr says what that was.

        Args:
          path: "quickstart", a run's folder, or a file or folder of weights of any form that
            `open_weights` understands.
          base: of a run of adapters: the model that they were trained on, if it has moved.
          loras: to merge into the model: paths, or pairs of a path and its strength, as in
            ["a.safetensors", ("b.safetensors", 0.8)].
          ema: of a run: the moving average of its parameters (optimizer.ema_decay).
          dtype: of the arithmetic, "float32" or "bfloat16"; None is float32 on CPUs and bfloat16
            elsewhere.
          mesh: the devices that make an edit together, as "fsdp=2,tensor=2"; the model and the
            language model are read part by part, and each device holds its part. Guidance's two
            branches are a batch of 2: data=2 or fsdp=2 takes them apart. None: one device.
          text_encoder: the language model's folder, if not with the model.
          vae: the autoencoder's file or folder, if not with the model.
          cache: a folder on a local disk for embeddings, see CachedEncoder; None keeps none. What
            is in it is not encoded again, and without need the language model is not loaded.
          quantize: stores the transformer's blocks in 8 bits, "int8" or "fp8".
          offload: model and language model wait in the host's memory and are on the devices only
            while they work.
          say: is told what is about to be loaded, line by line.

        Raises:
          UserError: parts are missing (all are named at once, before any is read), do not fit each
            other or the device's memory, or a value is impossible.
        """
        with memory_explained():
            parts = load_parts(
                path,
                base=base,
                loras=loras,
                ema=ema,
                dtype=dtype,
                mesh=mesh,
                text_encoder=text_encoder,
                vae=vae,
                cache=cache,
                quantize=quantize,
                offload=offload,
                say=say,
            )
        return cls(**parts)

    @rename_argument("guidance", "guidance_scale")
    def edit(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        negative: str | Sequence[str] = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        size: int | None = None,
        truncate: float | None = None,
        speed: str | SamplingPlan | None = None,
        noise: Any = None,
        mask: Any = None,
        keep_unchanged: bool = False,
        align: bool = False,
        num_images: int = 1,
        on_step: Callable[[Step], object] | None = None,
        previews: int = 0,
        output_size: str | tuple[int, int] = "input",
    ) -> list[Image.Image]:
        """Edit pictures, whatever their sizes; what was encoded for earlier edits is used again.

        Args:
          image: a picture as a PIL image, a path, the bytes of a file, or uint8 pixels (H, W),
            (H, W, 3) or (H, W, 4); or a list of them.
          instruction: what to do to it, one for each picture; an empty one is legal.
          negative: what is not wanted: one for all pictures, or one for each.
          steps: Euler steps; None, here and below, takes the model's default.
          guidance_scale: how strongly the instruction counts.
          seed: 0 to 2^64 - 1, of the first result, the others have the next ones; or a list of one
            for each picture. The noise depends on nothing else.
          size: about size^2 pixels are edited.
          truncate: the time, 1 is noise, above which the guidance is damped. 0 damps it at every
            step.
          speed: "exact": every step computes the model's velocity; "balanced" and "fast" compute
            about 16 and 11 of 28, the others go on with what was computed before; or a plan for
            this number of steps.
          noise: instead of the seed's: an array (B, 16, h, w), or the path of one as .npy, for
            pictures that are edited at one size.
          mask: what may change, of the picture's size (turned upright): white, or painted on a
            transparent layer, see `read_mask`; one for all pictures, or one (or None) each. Further
            from it than a soft edge of 1/32 of the picture's side every pixel is the source's, and
            the model sees what it is to continue.
          keep_unchanged: where the edit hardly differs from the source the result is the source,
            with a soft edge, see `changed_region`.
          align: results that have moved against their source, or whose colours have drifted where
            nothing was edited, are corrected as far as that can be measured, see `register`.
          num_images: results for each picture.
          on_step: called after every step; what it raises ends the edit and reaches the caller.
          previews: after every so many steps `on_step` is given previews; 0: never.
          output_size: "input": as the picture came in; "edited": as it was edited; or (width,
            height).

        Returns:
          The results, in sRGB and upright: all of the first picture, then those of the second.

        Raises:
          UserError: something of this is impossible (found before any model runs), the device's
            memory does not suffice, or a value on the way is not finite. The editor stays usable.
        """
        sampling, plan = self._sampling(
            speed, steps=steps, guidance_scale=guidance_scale, size=size, truncate=truncate
        )
        requests = edit_requests(
            image,
            instruction,
            negative=negative,
            seed=seed,
            size_level=sampling.size,
            mask=mask,
            output_size=output_size,
            num_images=num_images,
        )
        finishing = Finishing(align, keep_unchanged)
        return self._make(requests, sampling, plan, noise, on_step, previews, finishing)

    @rename_argument("guidance", "guidance_scale")
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative: str | Sequence[str] = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        size: int | tuple[int, int] | None = None,
        truncate: float | None = None,
        speed: str | SamplingPlan | None = None,
        noise: Any = None,
        num_images: int = 1,
        on_step: Callable[[Step], object] | None = None,
        previews: int = 0,
    ) -> list[Image.Image]:
        """Make pictures from text alone, which v1.1 can (published behaviour).

        Args as of `edit`, but for:
          prompt: what to show.
          size: the side of a square, or (width, height): multiples of 16 pixels.

        Raises:
          UserError: see `edit`; or the model is v1.0.
        """
        if self.model.config.version == "v1.0":
            raise UserError("v1.0 makes no pictures from text alone; load v1.1.")
        sampling, plan = self._sampling(
            speed, steps=steps, guidance_scale=guidance_scale, truncate=truncate
        )
        requests = generate_requests(
            prompt,
            negative=negative,
            seed=seed,
            size=sampling.size if size is None else size,
            num_images=num_images,
        )
        return self._make(requests, sampling, plan, noise, on_step, previews)

    def record(
        self,
        image: Any,
        instruction: str,
        *,
        negative: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        size: int | None = None,
        truncate: float | None = None,
        mask: Any = None,
    ) -> Trajectory:
        """The velocities of one exact edit, in which launch.calibrate looks for steps to skip.

        Args as of `edit`, of one picture; errors, too.
        """
        sampling, _ = self._sampling(
            EXACT, steps=steps, guidance_scale=guidance_scale, size=size, truncate=truncate
        )
        (request,) = edit_requests(
            image,
            instruction,
            negative=negative,
            seed=seed,
            size_level=sampling.size,
            mask=mask,
            output_size="edited",
            num_images=1,
        )
        noise = noise_from_seeds([request], self._latent_shape([request]))
        with memory_explained():
            conditions = self._conditions([request], [self._resized(request)], sampling.size)
            conditions, noise, times, guidance = self._inputs(conditions, sampling, noise)
            with self._model_there() as model:
                recorded = record(model, conditions, noise, times, guidance, self.mesh)
                velocities = np.stack(list(recorded))
        check_finite(velocities, "the model's velocity", "other weights")
        keep = np.zeros((*noise.shape[1:3], 1), bool)
        if conditions.keep is not None:
            keep = np.asarray(conditions.keep[0])
        return Trajectory(times, velocities, guidance, ~keep)

    def encode(self, picture: Image.Image) -> np.ndarray:
        """A picture, its sides multiples of 16, to latents (h, w, 16) float32."""
        encode = _encode_tiled if _is_large(*picture.size) else _encode
        latents = np.asarray(encode(self.autoencoder, jnp.asarray(to_array(picture)[None])))
        check_finite(latents, "what the autoencoder makes of the picture", "another autoencoder")
        return latents[0]

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """Latents (B, h, w, 16) to pictures; UserError if they are not finite."""
        _, h, w, _ = latents.shape
        large = _is_large(h * PIXELS_PER_LATENT, w * PIXELS_PER_LATENT)
        decode = _decode_tiled if large else _decode
        arrays = np.asarray(decode(self.autoencoder, jnp.asarray(latents)))
        check_finite(arrays, "what the autoencoder decodes", "another autoencoder")
        return [from_array(array) for array in arrays]

    def _sampling(
        self, speed: str | SamplingPlan | None, **given: Any
    ) -> tuple[SamplingConfig, SamplingPlan | None]:
        """The defaults with what was given instead, checked; and the plan, None: every step."""
        self.sampling.validate()
        hints = typing.get_type_hints(SamplingConfig, include_extras=True)
        changes = {}
        if not isinstance(speed, SamplingPlan):
            given["speed"] = speed
        for name, value in given.items():
            if value is not None:
                field = _FIELDS.get(name, name)
                changes[field] = build(hints[field], value, "edit", name)
        sampling = dataclasses.replace(self.sampling, **changes)
        if not isinstance(speed, SamplingPlan):
            return sampling, plan_of(sampling.speed, self.plans, sampling.num_steps)
        speed.validate()
        speed.check_steps(sampling.num_steps)
        return sampling, speed

    def _make(
        self,
        requests: list[EditRequest],
        sampling: SamplingConfig,
        plan: SamplingPlan | None,
        noise: Any,
        on_step: Callable[[Step], object] | None,
        previews: int,
        finishing: Finishing = Finishing(),  # noqa: B008 (frozen)
    ) -> list[Image.Image]:
        """Make all results, batch by batch."""
        if not isinstance(previews, int) or previews < 0:
            raise UserError(f"previews is {previews!r:.40}; give a whole number, 0 for none.")
        groups = batches([(r.size, r.mask is not None) for r in requests], self.mesh)
        given = None
        if noise is not None:
            if len({request.size for request in requests}) > 1:
                raise UserError(
                    "one noise is given for pictures that are edited at several sizes; edit them"
                    " one after another."
                )
            given = noise_given(noise, self._latent_shape(requests))
        warn_of_unknown([request.instruction for request in requests], self.known_edits)
        total = len(groups) * sampling.num_steps
        done = itertools.count(1)
        results: dict[int, Image.Image] = {}
        with memory_explained():
            for group in groups:
                chosen = [requests[i] for i in group]
                shape = self._latent_shape(chosen)
                start = noise_from_seeds(chosen, shape) if given is None else given[np.array(group)]

                def tell(shown: list[Image.Image] | None, group: list[int] = group) -> None:
                    assert on_step is not None
                    on_step(Step(next(done), total, tuple(group), shown))

                smalls = [self._resized(request) for request in chosen]
                conditions = self._conditions(chosen, smalls, sampling.size)
                latents = self._sample(
                    conditions, sampling, plan, start, None if on_step is None else tell, previews
                )
                check_finite(latents, "the model's result", "a smaller guidance, or other weights")
                for i, small, picture in zip(group, smalls, self.decode(latents), strict=True):
                    results[i] = finished(requests[i], small, picture, finishing)
        return [results[i] for i in range(len(requests))]

    def _latent_shape(self, requests: Sequence[EditRequest]) -> tuple[int, int, int, int]:
        width, height = requests[0].size
        h, w = height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
        return len(requests), h, w, self.autoencoder.config.z_channels

    def _sample(
        self,
        conditions: Conditions,
        sampling: SamplingConfig,
        plan: SamplingPlan | None,
        noise: jax.Array,
        tell: Callable[[list[Image.Image] | None], None] | None,
        previews: int,
    ) -> np.ndarray:
        """Latents (B, h, w, 16)."""
        conditions, noise, times, guidance = self._inputs(conditions, sampling, noise)
        with self._model_there() as model:
            before = np.asarray(noise)

            def show(step: int, latents: jax.Array) -> None:
                nonlocal before
                if tell is None:
                    return
                after, shown = np.asarray(latents), None
                if previews and step % previews == 0:
                    ahead = expected(before, after, float(times[step - 1]), float(times[step]))
                    shown = self.decode(ahead)
                before = after
                tell(shown)

            # the host's loop: another number of steps compiles nothing, nor does another plan
            return np.asarray(
                sample_with_progress(
                    model, conditions, noise, times, guidance, show, self.mesh, plan
                )
            )

    def _inputs(
        self, conditions: Conditions, sampling: SamplingConfig, noise: jax.Array
    ) -> tuple[Conditions, jax.Array, np.ndarray, Guidance]:
        """What the sampler is given, on the devices: conditions, noise, times and guidance."""
        _, h, w, _ = noise.shape
        times = timesteps(sampling.num_steps, h * w // PATCH**2, sampling.shift)
        guidance = Guidance(sampling.guidance, sampling.truncate_for(self.model.config.version))
        if self.mesh is not None:
            conditions, noise = jax.device_put((conditions, noise), replicated(self.mesh))
        return conditions, noise, times, guidance

    def _resized(self, request: EditRequest) -> Image.Image | None:
        """The source at the size at which it is edited, by the release's filter."""
        if request.source is None:
            return None
        return request.source.resize(request.size, RESAMPLING[self.model.config.version])

    @contextlib.contextmanager
    def _model_there(self) -> Iterator[Step1XEdit]:
        if not self.on_host:
            yield self.model
            return
        graph, params = nnx.split(self.model)
        with on_device(params, self.mesh) as there:
            yield nnx.merge(graph, there)

    def _conditions(
        self, requests: Sequence[EditRequest], smalls: Sequence[Image.Image | None], size_level: int
    ) -> Conditions:
        """Make the conditions of requests of one size, all with resized pictures or all without."""
        texts, negatives, references, kept = [], [], [], []
        for request, small in zip(requests, smalls, strict=True):
            picture = Image.new("RGB", BLACK) if small is None else small
            try:
                texts.append(self._conditioner.text(picture, request.instruction))
                negatives.append(self._conditioner.text(picture, request.negative))
            except PictureTakesAllTokens as e:
                raise UserError(
                    f"at size {size_level} the picture alone takes {e.tokens} of the"
                    f" {e.text_length} tokens that this model reads; leave the size to the model,"
                    " or give a smaller one."
                ) from e
            if small is not None:
                references.append(self._conditioner.latents(small))
            if request.mask is not None:
                changing = latent_mask(request.mask, *request.size, PIXELS_PER_LATENT)
                kept.append(~changing[..., None])
        text, lengths = (np.concatenate(parts) for parts in zip(*texts, strict=True))
        others, other_lengths = (np.concatenate(parts) for parts in zip(*negatives, strict=True))
        longest = np.concatenate([lengths, other_lengths])
        computed = text_bucket(longest, self.model.config.text_length)
        return Conditions(
            reference=jnp.asarray(np.stack(references)) if references else None,
            text=jnp.asarray(text[:, :computed]),
            text_lengths=jnp.asarray(lengths),
            negative_text=jnp.asarray(others[:, :computed]),
            negative_lengths=jnp.asarray(other_lengths),
            keep=jnp.asarray(np.stack(kept)) if kept else None,
        )


load_editor = Editor.load  # for those who look for a function


def _is_large(width: int, height: int) -> bool:
    """Whether the autoencoder computes such a picture in strips."""
    return width * height > LARGEST_WHOLE_PIXELS


def noise_from_seeds(requests: Sequence[EditRequest], shape: tuple[int, ...]) -> jax.Array:
    """The noise of each request, (B, h, w, 16) float32."""
    return jnp.concatenate([noise_from_seed(r.seed, (1, *shape[1:])) for r in requests])
