"""The surrogate a search asks: checkpoint in and out, and one call from observations to predictions.

A checkpoint is a directory with `surrogate.json` (encoding, sizes, calibration, where it came from),
`members.safetensors`, `memory.safetensors`, `kernel.safetensors` and `regression.safetensors`.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from metaft.errors import ModelError
from metaft.surrogate import architectures, curves, regression, training, transforms
from metaft.surrogate.context import Task, observe
from metaft.surrogate.coverage import Coverage, coverage
from metaft.surrogate.encoding import Configurations, Encoding
from metaft.surrogate.likelihood import Mixture
from metaft.surrogate.memory import Array, Memory
from metaft.surrogate.network import Architecture
from metaft.surrogate.prediction import Prediction
from metaft.surrogate.process import SIZE, Kernel, Runs

FORMAT = 6  # until 3 without a Gaussian process, until 4 without like tasks by meta-features, until 5 no regression
_CONTEXT_SIZES = (64, 256, 512)  # a compiled program each; beyond, the most informative runs
_QUERY_SIZES = (64, 256, 512, 1024)  # beyond, multiples of the last


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What standard deviations are multiplied with: exp(a + b [the run has been seen] + c log(1 + runs seen) / 4).

    `say` is a logit of that form: the regression's weight in the prediction of a value, once something was observed.
    """

    value: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the networks
    cost: tuple[float, float, float] = (0.0, 0.0, 0.0)
    regression: tuple[float, float, float] = (0.0, 0.0, 0.0)
    say: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """An ensemble of networks with the encoding they were trained with."""

    architecture: Architecture
    encoding: Encoding
    memory: Memory
    kernel: Kernel
    params: training.Params  # members stacked
    calibration: Calibration = Calibration()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what it was trained on, and how
    regressions: Mapping[str, regression.Hyperparameters] = dataclasses.field(default_factory=dict)  # by metric

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the checkpoint."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / 'members.safetensors').write_bytes(safetensors.numpy.save(_flatten(self.params)))
        (directory / 'memory.safetensors').write_bytes(safetensors.numpy.save(self.memory.arrays()))
        kernel = {name: np.asarray(value) for name, value in self.kernel._asdict().items()}
        (directory / 'kernel.safetensors').write_bytes(safetensors.numpy.save(kernel))
        priors = {f'{m}.{name}': np.asarray(v) for m, h in self.regressions.items() for name, v in h._asdict().items()}
        (directory / 'regression.safetensors').write_bytes(safetensors.numpy.save(priors))
        record = {
            'format': FORMAT,
            'architecture': dataclasses.asdict(self.architecture),
            'encoding': self.encoding.to_json(),
            'memory': {'metrics': self.memory.metrics, 'datasets': self.memory.datasets},
            'calibration': dataclasses.asdict(self.calibration),
            'provenance': dict(self.provenance),
        }
        (directory / 'surrogate.json').write_text(json.dumps(record, indent=1) + '\n')

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Self:
        """Reads a checkpoint; raises ModelError if it is not one."""
        directory = pathlib.Path(directory)
        try:
            record = json.loads((directory / 'surrogate.json').read_text())
            if record.get('format') != FORMAT:
                raise ModelError(
                    f'{directory} has format {record.get("format")!r}, this metaft reads {FORMAT}; train it again with '
                    'experiments.train_surrogate'
                )
            arrays, remembered, kernel, priors = (
                safetensors.numpy.load_file(directory / f'{name}.safetensors')
                for name in ('members', 'memory', 'kernel', 'regression')
            )
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelError(
                f'{directory} holds no surrogate ({error}); make one with experiments.train_surrogate'
            ) from error
        sizes = record['architecture'] | {'unread': tuple(record['architecture'].get('unread', ()))}
        architecture = Architecture(**sizes)
        calibration = Calibration(**{name: tuple(v) for name, v in record['calibration'].items()})
        return cls(
            architecture,
            Encoding.from_json(record['encoding']),
            Memory.from_arrays(remembered, **record['memory']),
            _kernel(kernel, architecture.num_hyperparameters - SIZE, directory),
            _unflatten(architecture, arrays, directory),
            calibration,
            record['provenance'],
            _regressions(priors, architecture.num_hyperparameters - SIZE, directory),
        )

    @property
    def proven(self) -> list[dict]:
        """Configurations that were among the best of a training task."""
        return list(self.provenance.get('proven', ()))

    def encode(self, configurations: Configurations, metric: str, without: str | None = None) -> Runs:
        """Encodes configurations, and what is remembered of them, once for many predictions.

        Args:
          configurations: dictionaries.
          metric: that will be predicted.
          without: a dataset whose runs are not remembered, where a training task is asked about.
        """
        config_CE = self.encoding.configurations(configurations)
        return Runs(config_CE, self.memory.recall(config_CE, metric, without))

    def coverage(self, meta_features: Mapping[str, float], configurations: Configurations = ()) -> Coverage:
        """Says how far a task and configurations lie outside of what the surrogate has seen."""
        return coverage(self.encoding, meta_features, configurations)

    def predict(
        self,
        meta_features: Mapping[str, float],
        configurations: Configurations | Runs,
        values_CT: np.ndarray,
        costs_CT: np.ndarray,
        *,
        metric: str,
        reference_value: float,
        reference_seconds: float,
        fractions_T: np.ndarray,
        max_examples: float = 1.0,
    ) -> Prediction:
        """Predicts every configuration at every budget, given what has been observed of the task.

        Args:
          meta_features: of the task; unknown and missing ones are fine.
          configurations: dictionaries, or what `encode` made of them.
          values_CT: observed values, lower is better; NaN: not observed; +inf: diverged (from there on).
          costs_CT: observed cumulative seconds; NaN: not observed.
          metric: 'loss' or 'exact_match' (then values are 1 - exact match).
          reference_value: of the base model before finetuning.
          reference_seconds: of one forward example on this machine.
          fractions_T: the grid of budgets as fractions of a full run.
          max_examples: of a full run.
        """
        runs = configurations if isinstance(configurations, Runs) else self.encode(configurations, metric)
        values_CT = _carry_divergence(np.asarray(values_CT, np.float64))
        num_C, num_T = values_CT.shape
        if len(runs.config_CE) != num_C or costs_CT.shape != values_CT.shape or len(fractions_T) != num_T:
            raise ValueError(
                f'{len(runs.config_CE)} configurations, values {values_CT.shape}, costs {costs_CT.shape} and '
                f'{len(fractions_T)} fractions do not fit; wanted [C, T] twice'
            )
        unit_seconds = reference_seconds * max_examples
        y_CT = transforms.transform(values_CT, metric, reference_value)
        rate_CT = transforms.log_rates(costs_CT, fractions_T, unit_seconds)
        rate_CT = (rate_CT - self.encoding.cost_center) / self.encoding.cost_scale
        last_C = curves.lengths(y_CT) - 1

        extra = _query_size(num_C) - num_C
        pad = lambda x: jnp.asarray(np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)))
        shown = curves.Curves(pad(np.nan_to_num(y_CT)), pad(curves.forward_fill(rate_CT)), pad(~np.isnan(y_CT)))
        predict = _predictor(self.architecture, tuple(map(float, fractions_T)))
        mixture, rate_mean_CT, rate_sd_CT = predict(
            self.params,
            self.kernel,
            jax.tree.map(pad, runs._replace(recall=runs.recall.for_networks())),
            shown,
            _context_rows(last_C, y_CT),
            Task(*map(jnp.asarray, (self.encoding.task(meta_features, metric), *self.encoding.sizes(meta_features)))),
            np.array([self.calibration.value, self.calibration.cost], np.float32),
        )
        mixture = jax.tree.map(lambda x: x[:num_C], mixture)
        if metric in self.regressions and last_C.max() >= 0:
            found = regression.posterior(self.regressions[metric], runs, y_CT, fractions_T).mixture()
            mixture = self._mixed(mixture, found, last_C >= 0)

        log_cost_CT = self.encoding.cost_center + self.encoding.cost_scale * np.asarray(
            rate_mean_CT[:num_C], np.float64
        )
        log_sd_CT = self.encoding.cost_scale * np.asarray(rate_sd_CT[:num_C], np.float64)
        # The median: where the costs of other tasks say little, the mean is tens of times what any run costs.
        cost_CT = np.exp(log_cost_CT) * np.asarray(fractions_T)[None, :] * unit_seconds
        cost_CT = np.maximum.accumulate(np.where(np.isnan(costs_CT), cost_CT, costs_CT), axis=1)
        return Prediction(
            metric=metric,
            reference_value=float(reference_value),
            fractions_T=np.asarray(fractions_T),
            mixture=mixture,
            observed_CT=values_CT,
            cost_seconds_CT=np.where(np.isnan(costs_CT), cost_CT, costs_CT),
            cost_log_sd_CT=np.where(np.isnan(costs_CT), log_sd_CT, 0.0),
        )

    def _mixed(self, networks: Mixture, regressed: Mixture, is_begun_C: np.ndarray) -> Mixture:
        """Returns what networks and regression expect together; the regression's components come last."""
        factors_CF = np.asarray(factors(is_begun_C, is_begun_C.sum()))
        logit_C11 = (factors_CF @ np.array(self.calibration.say))[:, None, None]
        scale_C11 = np.exp(factors_CF @ np.array(self.calibration.regression))[:, None, None]
        log_weight = [
            np.asarray(networks.log_weight) - np.logaddexp(0.0, logit_C11),
            regressed.log_weight - np.logaddexp(0.0, -logit_C11),
        ]
        join = lambda *parts: jnp.asarray(np.concatenate(parts, axis=2), jnp.float32)
        return Mixture(
            join(*log_weight), join(networks.mean, regressed.mean), join(networks.sd, regressed.sd * scale_C11)
        )


def factors(is_begun_C: Array, num_runs: Array) -> jax.Array:
    """Returns what the coefficients of a `Calibration` weigh, float32 [C, 3]; jit-able.

    Args:
      is_begun_C: bool, or 0 and 1: something of the run has been seen.
      num_runs: of which something has been seen.
    """
    is_begun_C = jnp.asarray(is_begun_C, jnp.float32)
    log_runs = jnp.log1p(jnp.asarray(num_runs, jnp.float32)) / 4.0
    return jnp.stack([jnp.ones_like(is_begun_C), is_begun_C, jnp.full_like(is_begun_C, log_runs)], axis=1)


@functools.cache
def _predictor(architecture: Architecture, fractions: tuple[float, ...]):
    """Returns the jitted forward pass of all members; their components become one mixture."""
    graph = training.build(architecture)
    fractions_T = np.array(fractions)

    @jax.jit
    def predict(params, kernel, runs, shown, context_rows_O, task, calibration):
        rows_C = jnp.arange(len(runs.config_CE))
        is_own_shown_C = jnp.ones(len(rows_C), bool)
        context, query = observe(kernel, runs, shown, fractions_T, context_rows_O, rows_C, is_own_shown_C)
        log_budget_CT = jnp.broadcast_to(jnp.log2(jnp.asarray(fractions_T, jnp.float32))[None, :], shown.y_CT.shape)
        member = lambda p: nnx.merge(graph, p)(context, query, task, log_budget_CT)
        output = jax.vmap(member)(params)

        factors_CF = factors(query.has_curve_C, jnp.sum(context.row_O >= 0))
        value_scale_C, cost_scale_C = jnp.exp(factors_CF @ calibration.T).T
        merge = lambda x_JCTG: jnp.moveaxis(x_JCTG, 0, 2).reshape(*x_JCTG.shape[1:3], -1)
        mixture = Mixture(
            merge(output.value.log_weight) - np.log(len(output.rate_mean_CT)),
            merge(output.value.mean),
            merge(output.value.sd) * value_scale_C[:, None, None],
        )
        variance_CT = jnp.mean(output.rate_sd_CT**2, axis=0) + jnp.var(output.rate_mean_CT, axis=0)
        return mixture, jnp.mean(output.rate_mean_CT, axis=0), jnp.sqrt(variance_CT) * cost_scale_C[:, None]

    return predict


def _context_rows(last_C: np.ndarray, y_CT: np.ndarray) -> np.ndarray:
    """Returns the observed rows, padded with -1; of too many those that were advanced farthest, then the best."""
    rows = np.flatnonzero(last_C >= 0)
    last_y = y_CT[rows, last_C[rows]]
    rows = rows[np.lexsort((last_y, -last_C[rows]))][: _CONTEXT_SIZES[-1]]
    size = next(size for size in _CONTEXT_SIZES if len(rows) <= size)
    return np.pad(np.sort(rows), (0, size - len(rows)), constant_values=-1).astype(np.int32)


def _query_size(num: int) -> int:
    last = _QUERY_SIZES[-1]
    return next((size for size in _QUERY_SIZES if num <= size), -(-num // last) * last)


def _carry_divergence(values_CT: np.ndarray) -> np.ndarray:
    return np.where(np.logical_or.accumulate(np.isposinf(values_CT), axis=1), np.inf, values_CT)


def _flatten(params: training.Params) -> dict[str, np.ndarray]:
    return {'.'.join(map(str, path)): np.asarray(value[...]) for path, value in nnx.to_flat_state(params)}


def _kernel(arrays: Mapping[str, np.ndarray], num_hyperparameters: int, directory: pathlib.Path) -> Kernel:
    wanted = {name: np.shape(v) for name, v in Kernel.initial(num_hyperparameters)._asdict().items()}
    _refuse_odd(wanted, {name: array.shape for name, array in arrays.items()}, directory)
    return Kernel(**arrays)


def _regressions(
    arrays: Mapping[str, np.ndarray], num_hyperparameters: int, directory: pathlib.Path
) -> dict[str, regression.Hyperparameters]:
    initial = regression.Hyperparameters.initial(num_hyperparameters)._asdict()
    metrics = sorted({name.partition('.')[0] for name in arrays})
    wanted = {f'{metric}.{name}': np.shape(v) for metric in metrics for name, v in initial.items()}
    _refuse_odd(wanted, {name: array.shape for name, array in arrays.items()}, directory)
    return {m: regression.Hyperparameters(**{name: arrays[f'{m}.{name}'] for name in initial}) for m in metrics}


def _refuse_odd(wanted: Mapping[str, tuple], found: Mapping[str, tuple], directory: pathlib.Path) -> None:
    if odd := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        raise ModelError(f'{directory}: the tensors {", ".join(odd)} do not fit its sizes; train it again')


def _unflatten(
    architecture: Architecture, arrays: Mapping[str, np.ndarray], directory: pathlib.Path
) -> training.Params:
    shapes = nnx.eval_shape(lambda: nnx.state(architectures.make(architecture, nnx.Rngs(0)), nnx.Param))
    flat = dict(nnx.to_flat_state(shapes))
    names = {'.'.join(map(str, path)): path for path in flat}
    wanted = {name: flat[path].shape for name, path in names.items()}
    found = {name: array.shape[1:] for name, array in arrays.items()}  # members stacked
    _refuse_odd(wanted, found, directory)
    return nnx.from_flat_state({path: flat[path].replace(jnp.asarray(arrays[name])) for name, path in names.items()})
