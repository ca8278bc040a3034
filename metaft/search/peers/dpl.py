"""DPL: an ensemble of networks that give every configuration a power law, fitted to the target task alone.

    loss(x, t) = a(x) + b(x) t^-g(x),   a, b > 0, g > 0;     five networks, absolute error

Reference: Kadra, Janowski, Wistuba and Grabocka 2023, arXiv 2302.00441: five networks of two hidden layers of 128
units, Adam 1e-3, batches of 64; the run with the largest expected improvement at the full budget, by mean and variance
over the ensemble, goes on by one step. t is the fraction of a full run. Deviation: 300 steps from the same
initialisation at each decision (it: 250 epochs at first, 20 more each time), for speed.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metaft.metadataset.tables import TaskTable
from metaft.search.peers import ask_tell
from metaft.search.peers.gaussian import GaussianCurves, proportional_costs
from metaft.surrogate.encoding import Encoding

_MEMBERS = 5
_HIDDEN = 128
_BATCH = 64
_STEPS = 300
_MIN_SD = 1e-3


class PowerLaw(nnx.Module):
    """One network."""

    def __init__(self, num_inputs: int, rngs: nnx.Rngs):
        sizes = (num_inputs, _HIDDEN, _HIDDEN, 3)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in zip(sizes, sizes[1:])])

    def __call__(self, x_NE: jax.Array, fraction_N: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x_NE = nnx.leaky_relu(layer(x_NE))
        a, b, g = jnp.split(self.layers[-1](x_NE), 3, axis=1)
        a, b, g = nnx.softplus(a - 2.0)[:, 0], nnx.softplus(b - 2.0)[:, 0], nnx.softplus(g)[:, 0]
        return a + b * fraction_N**-g


@dataclasses.dataclass(frozen=True)
class DPL:
    """The model of one task; its rows, not their values."""

    encoding: Encoding
    table: TaskTable
    seed: int

    def predict(self, values_CT: np.ndarray, costs_CT: np.ndarray) -> GaussianCurves:
        """Fits the ensemble to what was observed and evaluates it everywhere."""
        unit = ask_tell.unit(self.table)
        x_CE = self.encoding.configurations(self.table.configurations)
        fractions_T = np.asarray(self.table.fractions_T, np.float32)
        c, t = np.nonzero(~np.isnan(values_CT))
        losses_N = np.array([unit(v) for v in values_CT[c, t]], np.float32)
        index_SN = np.random.default_rng(self.seed).integers(0, max(len(c), 1), (_STEPS, _BATCH))
        if not len(c):  # nothing is known: every run as bad as diverged
            c, t, losses_N = np.zeros(1, int), np.full(1, len(fractions_T) - 1), np.ones(1, np.float32)
        x_SNE, t_SN, y_SN = (array[index_SN] for array in (x_CE[c], fractions_T[t], losses_N))
        predicted_MCT = np.asarray(
            _fitted(x_CE.shape[1])(jax.random.key(self.seed), x_SNE, t_SN, y_SN, x_CE, fractions_T), np.float64
        )
        scale = ask_tell.worst(self.table)
        mean_CT, sd_CT = scale * predicted_MCT.mean(axis=0), scale * predicted_MCT.std(axis=0)
        seen_CT = ~np.isnan(values_CT)
        observed_CT = np.where(np.isfinite(values_CT), values_CT, scale)
        return GaussianCurves(
            np.where(seen_CT, observed_CT, mean_CT),
            np.where(seen_CT, 0.0, np.maximum(sd_CT, _MIN_SD * scale)),
            proportional_costs(costs_CT, self.table.fractions_T),
        )


@functools.cache
def _fitted(num_inputs: int):
    """Returns the compiled program of a whole fit and its predictions, [M, C, T]."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: PowerLaw(num_inputs, nnx.Rngs(0))))
    optimizer = optax.adam(1e-3)

    def member(key: jax.Array, x_SNE, t_SN, y_SN, x_CE, fractions_T) -> jax.Array:
        params = nnx.state(PowerLaw(num_inputs, nnx.Rngs(key)), nnx.Param)

        def loss(params: Any, batch) -> jax.Array:
            x_NE, t_N, y_N = batch
            return jnp.mean(jnp.abs(nnx.merge(graph, params)(x_NE, t_N) - y_N))

        def step(carry, batch):
            params, state = carry
            with jax.numpy_dtype_promotion('standard'):
                update, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, update), state), None

        params = jax.lax.scan(step, (params, optimizer.init(params)), (x_SNE, t_SN, y_SN))[0][0]
        network = nnx.merge(graph, params)
        return jax.vmap(lambda t: network(x_CE, jnp.full(len(x_CE), t)), out_axes=1)(fractions_T)

    @jax.jit
    def fitted(key, *data):
        # Members see the same batches; they differ by their initialisation.
        return jax.vmap(lambda one: member(one, *data))(jax.random.split(key, _MEMBERS))

    return fitted
