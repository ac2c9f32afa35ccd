"""Training of the quickstart's small autoencoder, with a squared error and a small KL term.

Legend: B batch, S crop side in pixels, z latent channels.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from step1x_jax.curation.embedded.crops import SMALLEST, WHOLE, draw_name, photograph, random_crop
from step1x_jax.curation.embedded.descriptions import read_descriptions
from step1x_jax.curation.embedded.plain import PLAIN
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.quickstart import held_out

PICTURE = 128  # side in pixels of the pictures from which training crops are cut
EDITS = tuple(PLAIN.values())
GREY = (
    "brick",
    "camera",
    "coins",
    "grass",
    "gravel",
)  # grey photographs with much texture; recoloured at random


@dataclasses.dataclass
class AutoencoderTraining:
    """Settings of one training stage.

    Attributes:
      steps: number of steps.
      learning_rate: peak learning rate.
      batch_size: crops in a batch.
      size: side of the crops in pixels.
      decay: last fraction of the steps, in which the learning rate falls linearly to zero.
      kl_weight: weight of the KL term, see `loss_fn`.
      seed: seed of the crops and of the sampled latents.
    """

    steps: int
    learning_rate: float = 1e-3
    batch_size: int = 16
    size: int = 64
    decay: float = 0.5
    kl_weight: float = 1e-4
    seed: int = 0


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply random channel order, gain, offset and gamma: a dozen photographs have few colours.

    Args:
      image: (S, S, 3) uint8.
      rng: source of randomness.

    Returns:
      (S, S, 3) uint8.
    """
    x = image[..., rng.permutation(3)].astype(np.float32) / 255
    x = x ** rng.uniform(0.6, 1.6) * rng.uniform(0.6, 1.3, 3) + rng.uniform(-0.15, 0.15, 3)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def training_crop(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a crop at the scale of the quickstart's pictures: unchanged, recoloured or edited.

    Args:
      size: side of the crop in pixels, at most PICTURE.
      rng: source of randomness.

    Returns:
      (size, size, 3) uint8.
    """
    if rng.random() < 0.15:
        image = recolour(_crop_square(draw_name(GREY, rng), rng, SMALLEST), rng)
    else:
        coloured = [
            name for name in read_descriptions() if name not in (*held_out.PHOTOGRAPHS, *GREY)
        ]
        image = _crop_square(draw_name(coloured, rng), rng, SMALLEST)
        choice = rng.random()
        if choice < 0.35:
            image = recolour(image, rng)
        elif choice < 0.75:
            image = EDITS[rng.integers(len(EDITS))].apply(image)
    if rng.random() < 0.3:
        image = np.rot90(image, int(rng.integers(4)))
    top, left = rng.integers(PICTURE - size + 1, size=2)
    return image[top : top + size, left : left + size]


def _crop_square(name: str, rng: np.random.Generator, smallest: float) -> np.ndarray:
    return random_crop(photograph(name), "1x1", PICTURE, rng, smallest)


def crop_batches(config: AutoencoderTraining) -> Iterator[np.ndarray]:
    """Yield batches (B, S, S, 3) float32 in [-1, 1] without end, prepared one ahead.

    A batch depends only on config.seed and its number.
    """

    def make(step: int) -> np.ndarray:
        rng = np.random.default_rng((config.seed, step))
        drawn = [training_crop(config.size, rng) for _ in range(config.batch_size)]
        return np.stack(drawn).astype(np.float32) / 127.5 - 1

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, 0)
        for step in itertools.count(1):
            batch, upcoming = upcoming.result(), pool.submit(make, step)
            yield batch


def loss_fn(
    params: nnx.State, graph: nnx.GraphDef, images: jax.Array, key: jax.Array, kl_weight: float
) -> tuple[jax.Array, jax.Array]:
    """Compute the squared error of a decoded posterior sample plus the weighted KL to N(0, 1).

    The KL term keeps latents small and makes the decoder robust to small errors of the transformer.

    Args:
      params: the autoencoder's parameters.
      graph: its graph definition.
      images: (B, S, S, 3) float32 in [-1, 1].
      key: random key of the sample.
      kl_weight: weight of the KL per latent value (nats) to the squared error per colour value.

    Returns:
      The loss and the mean squared error, float32 scalars.
    """
    model = nnx.merge(graph, params)
    mean, logvar = model.moments(images)
    logvar = jnp.clip(logvar, -30, 20)
    sample = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    error = jnp.mean((model.decoder(sample) - images) ** 2)
    kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
    return error + kl_weight * kl, error


def train_autoencoder(
    model: Autoencoder, config: AutoencoderTraining, report: Callable[[int, float, nnx.State], None]
) -> nnx.State:
    """Train for one stage.

    Args:
      model: the initial model.
      config: the stage.
      report: called after every step with the number of completed steps, the mean squared error
        and the parameters.

    Returns:
      The trained parameters.
    """
    graph, params = nnx.split(model)
    flat = int(config.steps * (1 - config.decay))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0, config.learning_rate, 100),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0, config.steps - flat),
        ],
        [100, max(flat, 100)],
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    opt_state = jax.jit(optimizer.init)(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, opt_state, images, step):
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (_, error), grads = gradient(params, graph, images, key, config.kl_weight)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, error

    batches = crop_batches(config)
    for step in range(config.steps):
        params, opt_state, error = step_fn(params, opt_state, next(batches), np.int32(step))
        report(step + 1, float(error), params)
    return params


def whiten(model: Autoencoder, images: np.ndarray) -> None:
    """Whiten the latents of `images` by a linear map folded into the adjacent convolutions.

    A transformer learns white latents several times faster. The decoder's input is unchanged
    except at the border, where zero padding now represents the mean; a short further training
    stage corrects that.

    Args:
      model: modified in place.
      images: (B, S, S, 3) float32 in [-1, 1].
    """
    mean, _ = nnx.jit(Autoencoder.moments)(model, jnp.asarray(images))
    latents = np.asarray(mean, np.float64).reshape(-1, mean.shape[-1])
    centre = latents.mean(0)
    values, vectors = np.linalg.eigh(np.cov(latents.T))
    forward = vectors @ np.diag(values**-0.5) @ vectors.T  # symmetric
    backward = vectors @ np.diag(values**0.5) @ vectors.T
    z = len(centre)

    out, into = model.encoder.conv_out, model.decoder.conv_in
    assert out.bias is not None
    assert into.bias is not None  # nnx.Conv may have no bias
    kernel, bias = np.array(out.kernel[...], np.float64), np.array(out.bias[...], np.float64)
    kernel[..., :z] = kernel[..., :z] @ forward
    bias[:z] = forward @ (bias[:z] - centre)
    bias[z:] += 2 * np.log(np.diag(forward))
    out.kernel[...], out.bias[...] = jnp.float32(kernel), jnp.float32(bias)

    kernel = np.array(into.kernel[...], np.float64)
    bias = np.array(into.bias[...], np.float64) + np.einsum("hwzc,z->c", kernel, centre)
    into.kernel[...] = jnp.float32(np.einsum("hwzc,zy->hwyc", kernel, backward))
    into.bias[...] = jnp.float32(bias)


def evaluate_psnr(model: Autoencoder) -> dict[str, float]:
    """Compute the mean PSNR in dB of reconstructed crops, by held-out photograph."""
    reconstruct = nnx.jit(lambda model, x: model.decode(model.encode(x)))
    figures = {}
    for name in held_out.PHOTOGRAPHS:
        rng = np.random.default_rng(0)  # the same crops in every evaluation
        images = np.stack([_crop_square(name, rng, WHOLE) for _ in range(4)])
        crops = images.astype(np.float32) / 127.5 - 1
        decoded = np.clip(np.asarray(reconstruct(model, crops)), -1, 1)
        mse = np.mean((decoded - crops) ** 2, axis=(1, 2, 3))
        figures[name] = float(np.mean(10 * np.log10(4 / mse)))
    return figures
