"""After the search: the test split, the default configuration for comparison, and what was trained, for others to use:
an adapter in PEFT's format, or a model with the adapter merged in.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metaft.adapters import dora, full, lora, peft
from metaft.errors import ConfigurationError
from metaft.executors.local import Job
from metaft.finetune.methods import METHODS, variant
from metaft.finetune.population import Evaluation
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.metadataset.records import Measurement
from metaft.phi3 import Phi3, save_pretrained
from metaft.phi3.casting import cast, largest_logit_change
from metaft.tuning.ledger import Ledger, score
from metaft.tuning.problem import Problem

_NUM_COMPARED = 8  # validation examples that a merged model's logits are compared on


def untrained(problem: Problem) -> dict:
    """Return the entry of the base model as it is, for `results.json`."""
    validation, test = problem.zero_shot
    return {
        'configuration': None,
        'budget_steps': 0,
        'validation_loss': validation.loss,
        'validation_exact_match': validation.exact_match,
        'test_loss': test.loss,
        'test_exact_match': test.exact_match,
    }


def incumbent(problem: Problem, ledger: Ledger) -> tuple[dict, Configuration, dict] | None:
    """Test the best measured checkpoint; None where nothing was measured or all diverged.

    A run's state before its first update is a checkpoint too: it is the base model, whose loss is known. Where no
    trained checkpoint is better on validation, it is the incumbent, with budget_steps 0: the answer is not to finetune.

    Returns:
      its entry in `results.json`, its configuration, and what it trains.
    """
    best = ledger.incumbent()
    if best is None:
        return None
    configuration, adapter = ledger.incumbent_adapter()
    validation, _ = problem.zero_shot
    before = validation.loss if problem.metric == 'loss' else 1.0 - validation.exact_match
    if score(best, problem.metric)[0] > before:
        untouched = problem.executor.untrained(configuration, problem.seed)
        entry = untrained(problem) | {
            'configuration': dict(best.configuration),
            'budget_examples': 0,
            'cost_seconds': 0.0,
        }
        return entry | {'run_id': best.run_id}, configuration, untouched
    return _entry(best, problem.executor.test(configuration, adapter)), configuration, adapter


def default(problem: Problem, budget: float, unit: str = 'seconds') -> dict | None:
    """Run the default configuration to its end or as far as the budget reaches, and test its best checkpoint.

    It has a clock and a ledger of its own, in `default/` of the workdir, and is measured at every grid point.
    """
    configuration = default_configuration()
    workdir = problem.workdir / 'default'
    workdir.mkdir(exist_ok=True)
    ledger = Ledger(workdir, problem.metric)
    steps_T = problem.executor.grid(configuration).steps_T
    done = {m.budget_steps for m in ledger.measurements}
    points = tuple(t for t, steps in enumerate(steps_T) if steps not in done)
    if unit != 'seconds':
        cost_T = dataclasses.replace(problem, candidates=[configuration]).costs(unit)[0]
        points = tuple(t for t in points if cost_T[t] <= budget)
    ends = budget if unit == 'seconds' else np.inf
    ledger.start_clock()
    try:
        if points and ledger.spent_seconds < ends:
            problem.executor.advance(
                [Job('default', configuration, problem.seed, points[-1], points)],
                on_measurement=ledger.record,
                should_stop=lambda: ledger.spent_seconds > ends,
            )
    finally:
        ledger.stop_clock()
    found = incumbent(problem, ledger)
    furthest = max(m.cost_seconds for m in ledger.measurements) if ledger.measurements else 0.0
    return found and found[0] | {'spent_seconds': ledger.spent_seconds, 'full_run_seconds': furthest}


def export(problem: Problem, configuration: Configuration, adapter: dict, base_model: str) -> Path:
    """Write what was trained and return where: `adapter/` in PEFT's format, or for full tuning a whole `model/`."""
    workdir = problem.workdir
    if configuration.method == 'full':
        return _write_model(problem, full.adapt(problem.executor.task.model, adapter))
    if configuration.method == 'lora':
        peft.save_lora(
            workdir / 'adapter',
            adapter,
            rank=configuration.rank,
            alpha=configuration.alpha_ratio * configuration.rank,
            dropout=configuration.dropout,
            targets=configuration.targets,
            base_model=base_model,
            rslora=configuration.rslora,
            layers=configuration.layers,
        )
    else:
        peft.save_prompt(workdir / 'adapter', adapter, length=configuration.prompt_length, base_model=base_model)
    return workdir / 'adapter'


def export_merged(problem: Problem, configuration: Configuration, adapter: dict, dtype: Any) -> tuple[Path, float]:
    """Write the model with what was trained merged into its weights, in float32 and cast last.

    Args:
      dtype: of the weights written.

    Returns:
      where, and the largest change of a logit that casting made, on the first validation examples.

    Raises:
      ConfigurationError: a soft prompt, which is no change of weights.
    """
    base, rows = cast(problem.executor.task.model, jnp.float32), problem.executor.task.validation
    if configuration.method == 'prompt':
        raise ConfigurationError('a soft prompt cannot be merged into weights; use --export=adapter')
    if configuration.method == 'full':
        merged = full.adapt(base, adapter)
    else:
        settings = METHODS[variant(configuration)].settings(configuration)
        merged = (dora if configuration.dora else lora).merge(base, adapter, settings)
    first = rows.take(np.arange(min(_NUM_COMPARED, len(rows.length_N))))
    mask_BL = np.arange(first.tokens_NL.shape[1])[None, :] < first.length_N[:, None]
    change = largest_logit_change(merged, dtype, np.asarray(first.tokens_NL), mask_BL)
    return _write_model(problem, cast(merged, dtype)), change


def _write_model(problem: Problem, model: Phi3) -> Path:
    directory = problem.workdir / 'model'
    save_pretrained(model, directory)
    problem.tokenizer.save_pretrained(directory)
    return directory


def _entry(measurement: Measurement, test: Evaluation) -> dict:
    return {
        'configuration': dict(measurement.configuration),
        'budget_steps': measurement.budget_steps,
        'budget_examples': measurement.budget_examples,
        'validation_loss': measurement.validation_loss,
        'validation_exact_match': measurement.validation_exact_match,
        'test_loss': test.loss,
        'test_exact_match': test.exact_match,
        'cost_seconds': measurement.cost_seconds,
        'run_id': measurement.run_id,
    }
