"""Gaussian processes on features that a network makes of (configuration, curve so far): Quick-Tune's and DyHPO's model.

    f = network(x, y_1 ... y_t, 0 ... 0);      y_{t+1} ~ GP(constant, scaled RBF on f) + noise

The network and the kernel's parameters minimise the negative log marginal likelihood of batches. Scores are 1 - loss in
[0, 1], so that the zeros behind a curve so far are the worst scores. Written from the papers: DyHPO, arXiv 2202.09774;
Quick-Tune, arXiv 2306.03828.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Array = Any  # of NumPy or JAX

_JITTER = 1e-5
_MIN_NOISE = 1e-4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one model."""

    num_inputs: int  # of an encoded configuration, with whatever else is known of the run
    num_points: int  # T
    convolution: bool  # over the curve (DyHPO), else a dense encoder (Quick-Tune)
    hidden: int = 128
    bottleneck: int = 8
    features: int = 32


class Points(NamedTuple):
    """Training points, padded: the next score of runs whose curve so far is known."""

    x_NE: Array
    curve_NT: Array  # scores so far, 0 behind
    score_N: Array
    weight_N: Array  # 0: padding


class Network(nnx.Module):
    """Features of a run at its next point, and the parameters of the GP over them."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        s = sizes
        linear = functools.partial(nnx.Linear, rngs=rngs)
        self.sizes = s
        self.config = nnx.List(
            [linear(s.num_inputs, s.hidden), linear(s.hidden, s.hidden), linear(s.hidden, s.bottleneck)]
        )
        self.config_out = linear(s.bottleneck, s.features)
        if s.convolution:
            self.filters = nnx.Conv(1, 4, (3,), rngs=rngs)
            joined = s.features + 4
        else:
            self.curve = nnx.List([linear(s.num_points, s.hidden), linear(s.hidden, s.bottleneck)])
            self.curve_out = linear(s.bottleneck, s.features // 2)
            joined = s.features + s.features // 2
        self.head = nnx.List([linear(joined, s.hidden), linear(s.hidden, s.features)])
        self.mean, self.log_scale = nnx.Param(jnp.zeros(())), nnx.Param(jnp.zeros(()))
        self.log_length, self.log_noise = nnx.Param(jnp.zeros(())), nnx.Param(jnp.full((), -4.0))

    def __call__(self, x_NE: jax.Array, curve_NT: jax.Array) -> jax.Array:
        config = self.config_out(_normalised(_dense(self.config, x_NE)))
        if self.sizes.convolution:
            curve = jnp.max(nnx.relu(self.filters(curve_NT[:, :, None])), axis=1)
        else:
            curve = self.curve_out(_normalised(_dense(self.curve, curve_NT)))
        return _dense(self.head, jnp.concatenate([config, curve], axis=1))

    def kernel(self, f_ND: jax.Array, g_MD: jax.Array) -> jax.Array:
        square = jnp.sum(f_ND**2, axis=1)[:, None] + jnp.sum(g_MD**2, axis=1)[None, :] - 2.0 * f_ND @ g_MD.T
        return jnp.exp(self.log_scale[...] - 0.5 * jnp.maximum(square, 0.0) * jnp.exp(-2.0 * self.log_length[...]))

    @property
    def noise(self) -> jax.Array:
        return jnp.exp(self.log_noise[...]) + _MIN_NOISE


@dataclasses.dataclass(frozen=True)
class DeepKernel:
    """A model with its parameters."""

    sizes: Sizes
    params: Any

    @classmethod
    def initialise(cls, sizes: Sizes, seed: int) -> 'DeepKernel':
        return cls(sizes, _initialise(sizes)(jax.random.key(seed)))

    def fit(self, points: Points, steps: int, batch: int, seed: int, learning_rate: float = 1e-3) -> 'DeepKernel':
        """Returns the model after AdamW steps on random batches of the points."""
        num = int(np.sum(np.asarray(points.weight_N) > 0))
        rng = np.random.default_rng(seed)
        size = min(batch, len(points.score_N))
        # Where there are fewer points than a batch holds, all of them and padding.
        index = [
            rng.permutation(num)[:size] if num >= size else np.pad(np.arange(num), (0, size - num), constant_values=-1)
            for _ in range(steps)
        ]
        return dataclasses.replace(
            self, params=_fit(self.sizes, learning_rate)(self.params, points, np.array(index, np.int32))
        )

    def predict(self, known: Points, x_CE: np.ndarray, curve_CT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of the next scores, given known points."""
        mean, sd = _predict(self.sizes)(self.params, known, x_CE, curve_CT)
        return np.asarray(mean, np.float64), np.asarray(sd, np.float64)


def points_of(x_CE: np.ndarray, scores_CT: np.ndarray, curves_CT: np.ndarray | None = None) -> Points:
    """Returns every measured point as a target behind its curve so far, by row and then by grid point.

    Args:
      x_CE: of the runs; [C, T, E] where it depends on the point.
      scores_CT: NaN: not measured.
      curves_CT: what is known of each curve, gaps filled; by default the scores.
    """
    filled_CT = np.nan_to_num(scores_CT if curves_CT is None else curves_CT)
    c, t = np.nonzero(~np.isnan(scores_CT))
    before = np.arange(scores_CT.shape[1])[None, :] < t[:, None]
    x_NE = x_CE[c] if x_CE.ndim == 2 else x_CE[c, t]
    return Points(
        x_NE.astype(np.float32),
        np.where(before, filled_CT[c], 0.0).astype(np.float32),
        scores_CT[c, t].astype(np.float32),
        np.ones(len(c), np.float32),
    )


def padded(points: Points, sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024), seed: int = 0) -> Points:
    """Returns the points padded to the next size, so that few programs are compiled; of too many a random part."""
    num = len(points.score_N)
    if num > sizes[-1]:
        chosen = np.random.default_rng(seed).permutation(num)[: sizes[-1]]
        return Points(*(part[chosen] for part in points))
    extra = next(size for size in sizes if size >= num) - num
    return Points(*(np.pad(part, [(0, extra)] + [(0, 0)] * (part.ndim - 1)) for part in points))


def joined(*parts: Points) -> Points:
    return Points(*(np.concatenate(arrays) for arrays in zip(*parts)))


# ---------------------------------------------------------------- compiled once a size


@functools.cache
def _graph(sizes: Sizes) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Network(sizes, nnx.Rngs(0))))


@functools.cache
def _initialise(sizes: Sizes):
    return jax.jit(lambda key: nnx.state(Network(sizes, nnx.Rngs(key)), nnx.Param))


@functools.cache
def _fit(sizes: Sizes, learning_rate: float):
    optimizer = optax.adamw(learning_rate)

    def loss(params: Any, batch: Points) -> jax.Array:
        network = nnx.merge(_graph(sizes), params)
        cholesky, residual_N = _factor(network, batch)
        white_N = jax.scipy.linalg.solve_triangular(cholesky, residual_N, lower=True)
        # Padding has unit variance and no residual: it adds nothing.
        nll = 0.5 * jnp.sum(white_N**2) + jnp.sum(jnp.log(jnp.diag(cholesky)))
        return nll / jnp.sum(batch.weight_N)

    @jax.jit
    def fit(params: Any, points: Points, index_SN: jax.Array) -> Any:
        def step(carry, index_N):
            params, state = carry
            batch = Points(*(part[index_N] for part in points))
            batch = batch._replace(weight_N=jnp.where(index_N >= 0, batch.weight_N, 0.0))
            gradient = jax.grad(loss)(params, batch)
            with jax.numpy_dtype_promotion('standard'):
                update, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), index_SN)[0][0]

    return fit


@functools.cache
def _predict(sizes: Sizes):
    @jax.jit
    def predict(params: Any, known: Points, x_CE: jax.Array, curve_CT: jax.Array):
        network = nnx.merge(_graph(sizes), params)
        f_CD = network(jnp.asarray(x_CE, jnp.float32), jnp.asarray(curve_CT, jnp.float32))
        cholesky, residual_N = _factor(network, known)
        cross_NC = network.kernel(network(known.x_NE, known.curve_NT), f_CD) * known.weight_N[:, None]
        white_NC = jax.scipy.linalg.solve_triangular(cholesky, cross_NC, lower=True)
        white_N = jax.scipy.linalg.solve_triangular(cholesky, residual_N, lower=True)
        variance_C = jnp.exp(network.log_scale[...]) + network.noise - jnp.sum(white_NC**2, axis=0)
        return network.mean[...] + white_N @ white_NC, jnp.sqrt(jnp.maximum(variance_C, _MIN_NOISE))

    return predict


def _factor(network: Network, points: Points) -> tuple[jax.Array, jax.Array]:
    """Returns the Cholesky factor of the covariance and the residuals; padding is independent with variance 1."""
    feature_ND = network(points.x_NE, points.curve_NT)
    both_NN = points.weight_N[:, None] * points.weight_N[None, :]
    covariance_NN = network.kernel(feature_ND, feature_ND) * both_NN
    diagonal_N = jnp.where(points.weight_N > 0, network.noise + _JITTER, 1.0)
    return jnp.linalg.cholesky(covariance_NN + jnp.diag(diagonal_N)), (
        points.score_N - network.mean[...]
    ) * points.weight_N


def _dense(layers, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)


def _normalised(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)
