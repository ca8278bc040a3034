"""Deep ranking ensembles: scorers that order configurations, meta-learned with a list-wise loss; full runs, no curves.

    z     = mean over observed (x, y) of phi(x, y), through rho          a deep set of the task so far
    s_m   = scorer m of (x, z);    rank distribution: mean and spread over the ten scorers' ranks
    loss  = - sum_i w_i log softmax(s)_i over what is not ranked yet,    w_i = 1 / log(i + 1)

Reference: Khazi, Pineda Arango and Grabocka 2023, arXiv 2303.15212: ten scorers, position weights 1 / log(i + 1),
meta-training on sampled lists, fine-tuning on what was observed at each decision, expected improvement of the rank.
Deviation: 1,500 steps of meta-training on lists of 50 (it: 5,000 epochs on lists of 100) and 50 steps of fine-tuning,
for speed.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.stats import rankdata

from metaft.metadataset.tables import TaskTable
from metaft.search.baselines import InOrder, best_values
from metaft.search.observations import Observations, Suggestion
from metaft.search.peers import ask_tell
from metaft.search.peers.gaussian import expected_improvement
from metaft.surrogate.encoding import Encoding

_SCORERS = 10
_HIDDEN = 32
_SET = 32
_LIST = 50
_SUPPORT = 20
_STEPS = 1500
_FINE_TUNING = 50
_BATCH = 8


class Scorers(nnx.Module):
    """The deep set of what was observed, and one scorer."""

    def __init__(self, num_inputs: int, rngs: nnx.Rngs):
        mlp = lambda *sizes: nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in zip(sizes, sizes[1:])])
        self.phi = mlp(num_inputs + 1, _SET, _SET, _SET)
        self.rho = mlp(_SET, _SET, _SET)
        self.scorer = mlp(num_inputs + _SET, _HIDDEN, _HIDDEN, _HIDDEN, _HIDDEN, 1)

    def __call__(self, x_CE: jax.Array, seen_OE: jax.Array, y_O: jax.Array, is_seen_O: jax.Array) -> jax.Array:
        element_OD = _dense(self.phi, jnp.concatenate([seen_OE, y_O[:, None]], axis=1)) * is_seen_O[:, None]
        pooled_D = jnp.sum(element_OD, axis=0) / jnp.maximum(jnp.sum(is_seen_O), 1.0)
        set_D = _dense(self.rho, pooled_D[None])[0]
        inputs = jnp.concatenate([x_CE, jnp.broadcast_to(set_D, (len(x_CE), _SET))], axis=1)
        return _dense(self.scorer, inputs)[:, 0]


def list_loss(score_C: jax.Array, y_C: jax.Array, weight_C: jax.Array) -> jax.Array:
    """Returns the weighted list-wise negative log likelihood of the true order, the best (lowest y) first."""
    order = jnp.argsort(jnp.where(weight_C > 0, y_C, jnp.inf))
    score_C, weight_C = score_C[order], weight_C[order]
    masked_C = jnp.where(weight_C > 0, score_C, -1e9)
    rest_C = jax.lax.cumlogsumexp(masked_C, reverse=True)
    position_C = 1.0 / jnp.log(jnp.arange(len(score_C), dtype=jnp.float32) + 2.0)
    return jnp.sum(weight_C * position_C * (rest_C - score_C)) / jnp.maximum(jnp.sum(weight_C * position_C), 1e-6)


@dataclasses.dataclass(frozen=True)
class Learned:
    """Ten meta-trained scorers."""

    encoding: Encoding
    params: Any  # stacked


def learn(tables: Sequence[TaskTable], encoding: Encoding, seed: int) -> Learned:
    """Meta-trains on lists of each task's runs by their best value."""
    rng = np.random.default_rng(seed)
    tasks = [_task(table, encoding) for table in tables]
    x, y = np.empty((_STEPS, _BATCH, _LIST, tasks[0][0].shape[1]), np.float32), np.empty((_STEPS, _BATCH, _LIST))
    support = rng.integers(0, _SUPPORT + 1, (_STEPS, _BATCH))
    for s in range(_STEPS):
        for b in range(_BATCH):
            x_CE, y_C = tasks[rng.integers(len(tasks))]
            rows = rng.integers(0, len(y_C), _LIST) if len(y_C) < _LIST else rng.permutation(len(y_C))[:_LIST]
            x[s, b], y[s, b] = x_CE[rows], y_C[rows]
    is_support = np.arange(_LIST)[None, None, :] < support[..., None]
    fit = _fit(x.shape[-1], fresh=True)
    params = fit(None, jax.random.key(seed), x, y.astype(np.float32), is_support.astype(np.float32))
    return Learned(encoding, params)


@dataclasses.dataclass(frozen=True)
class DRE:
    """The searcher: full runs, one after another."""

    learned: Learned
    table: TaskTable  # its rows, not their values
    seed: int

    def suggest(self, observations: Observations, remaining_seconds: float, width: int = 1) -> list[Suggestion]:
        """Goes on with what is begun; else begins the run whose rank is expected to improve most."""
        is_open_C = observations.last_grid_index_C < len(self.table.fractions_T) - 1
        begun = np.flatnonzero(observations.started_C & is_open_C)
        order = tuple(map(int, begun)) if len(begun) >= width else (*map(int, begun), *self._order(observations))
        return InOrder(order).suggest(observations, remaining_seconds, width)

    def _order(self, observations: Observations) -> list[int]:
        """Returns the rows not begun, the most promising first."""
        x_CE = self.learned.encoding.configurations(self.table.configurations)
        seen = np.flatnonzero(observations.started_C)[-_LIST:]
        unit = ask_tell.unit(self.table)
        y_O = np.array([unit(v) for v in best_values(observations.values_CT[seen])], np.float32)
        extra = _LIST - len(seen)
        seen_OE = np.pad(x_CE[seen], [(0, extra), (0, 0)])
        y_O = np.pad(_standardised(y_O), (0, extra)).astype(np.float32)
        is_seen_O = np.pad(np.ones(len(seen), np.float32), (0, extra))
        params = self.learned.params
        if len(seen) >= 2:
            repeated = [np.broadcast_to(part, (_FINE_TUNING, 1, *part.shape)) for part in (seen_OE, y_O, is_seen_O)]
            params = _fit(x_CE.shape[1], fresh=False)(params, jax.random.key(self.seed), *repeated)
        score_MC = np.asarray(_score(x_CE.shape[1])(params, x_CE, seen_OE, y_O, is_seen_O))
        rank_MC = rankdata(-score_MC, axis=1)  # 1: the best
        mean_C, sd_C = rank_MC.mean(axis=0), rank_MC.std(axis=0)
        best = mean_C[seen].min() if len(seen) else mean_C.max()
        gain_C = expected_improvement(mean_C, np.maximum(sd_C, 1e-3), best)
        order = np.lexsort((mean_C, -gain_C))
        return [int(c) for c in order if not observations.started_C[c]]


def _task(table: TaskTable, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    unit = ask_tell.unit(table)
    measured = ~np.isnan(table.values_CT).all(axis=1)
    best_C = np.array([unit(v) for v in best_values(table.values_CT[measured])], np.float32)
    return encoding.configurations(table.configurations)[measured], _standardised(best_C)


def _standardised(y: np.ndarray) -> np.ndarray:
    return (y - y.mean()) / (y.std() + 1e-3) if len(y) else y


@functools.cache
def _graph(num_inputs: int) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Scorers(num_inputs, nnx.Rngs(0))))


@functools.cache
def _fit(num_inputs: int, fresh: bool):
    """Returns the compiled program that trains all scorers on [S, B, L] lists, whose supports are seen."""
    optimizer = optax.adam(1e-3)

    def loss(params: Any, x_BLE, y_BL, is_seen_BL) -> jax.Array:
        network = nnx.merge(_graph(num_inputs), params)

        def one(x_LE, y_L, is_seen_L):
            score_L = network(x_LE, x_LE, y_L, is_seen_L)
            # Fresh: rank what is not seen; fine-tuning: there is nothing but what is seen.
            return list_loss(score_L, y_L, 1.0 - is_seen_L if fresh else is_seen_L)

        return jnp.mean(jax.vmap(one)(x_BLE, y_BL, is_seen_BL))

    @jax.jit
    def fit(params: Any, key: jax.Array, x, y, is_seen) -> Any:
        if params is None:
            make = lambda one: nnx.state(Scorers(num_inputs, nnx.Rngs(one)), nnx.Param)
            params = jax.vmap(make)(jax.random.split(key, _SCORERS))

        def step(carry, batch):
            params, state = carry
            gradient = jax.grad(loss)(params, *batch)
            with jax.numpy_dtype_promotion('standard'):
                update, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), None

        train = lambda params: jax.lax.scan(step, (params, optimizer.init(params)), (x, y, is_seen))[0][0]
        return jax.vmap(train)(params)

    return fit


@functools.cache
def _score(num_inputs: int):
    @jax.jit
    def score(params: Any, x_CE, seen_OE, y_O, is_seen_O) -> jax.Array:
        return jax.vmap(lambda p: nnx.merge(_graph(num_inputs), p)(x_CE, seen_OE, y_O, is_seen_O))(params)

    return score


def _dense(layers, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)
