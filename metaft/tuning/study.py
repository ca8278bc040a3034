"""The design of a scaling study: which runs, one factor varied at a time around a default, as in arXiv 2402.17193.

Three series by task and method: over model sizes, over pretraining checkpoints and over adapter sizes, each with every
data size and seed; the data sizes are the same for all methods. What a run is, not how it is done.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaft.finetune.costs import forward_flops, training_flops
from metaft.finetune.search_space import Configuration, default_configuration
from metaft.phi3 import Phi3Config

LEARNING_RATES = {  # half a decade apart; a pilot at width 64 found .01 best for full tuning and .03 for LoRA
    'full': (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    'lora': (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    'prompt': (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
}
LENGTHS = {'translation': (46, 20), 'summary': (92, 14)}  # mean tokens of an example and of its answer, for the plan
EVALUATED = 128 * 7 + 256 + 4 * 64  # examples evaluated in a run: validation at seven checkpoints, test, others
TUNING_SEED = 1000  # its training data are none of the study's


@dataclasses.dataclass(frozen=True)
class Run:
    """One finetuning run; `adapter_size` is LoRA's rank or the prompt's length, 1 for full tuning, which has none."""

    task: str
    method: str
    width: int
    tokens: int
    adapter_size: int
    data_size: int
    seed: int

    @property
    def cell(self) -> tuple[str, str, int, int]:
        """What shares a compiled program and a base: (task, method, width, tokens)."""
        return (self.task, self.method, self.width, self.tokens)


@dataclasses.dataclass(frozen=True)
class Axes:
    """The values of every factor.

    Attributes:
      tasks, methods: names.
      widths, tokens: of the bases: hidden sizes, and tokens read at each checkpoint, the last one the whole.
      adapter_sizes: by method, other than full.
      data_sizes: finetuning examples.
      seeds: number of them.
      width, adapter_size: the usual ones, by which the others are varied; the usual checkpoint is the last.
    """

    tasks: Sequence[str]
    methods: Sequence[str]
    widths: Sequence[int]
    tokens: Sequence[int]
    adapter_sizes: Mapping[str, Sequence[int]]
    data_sizes: Sequence[int]
    seeds: int
    width: int
    adapter_size: int


def design(axes: Axes) -> list[Run]:
    """Returns every run of the study once, by method and then in the order of their cells."""
    runs = []
    for task, method in itertools.product(axes.tasks, axes.methods):
        for width, tokens, adapter in _places(axes, method):
            for data_size, seed in itertools.product(axes.data_sizes, range(axes.seeds)):
                runs.append(Run(task, method, width, tokens, adapter, data_size, seed))
    return sorted(dict.fromkeys(runs), key=lambda run: (axes.methods.index(run.method), run.cell))


def _places(axes: Axes, method: str) -> list[tuple[int, int, int]]:
    last, usual = axes.tokens[-1], 1 if method == 'full' else axes.adapter_size
    models = [(width, last, usual) for width in axes.widths]
    checkpoints = [(axes.width, tokens, usual) for tokens in axes.tokens]
    adapters = [(axes.width, last, size) for size in axes.adapter_sizes.get(method, ())]
    return list(dict.fromkeys(models + checkpoints + adapters))


def tuning(axes: Axes, widths: Sequence[int]) -> list[Run]:
    """Returns the runs, one a task, method and width, each to be done at every one of `LEARNING_RATES`."""
    middle = axes.data_sizes[len(axes.data_sizes) // 2]
    return [
        Run(task, method, width, axes.tokens[-1], 1 if method == 'full' else axes.adapter_size, middle, TUNING_SEED)
        for task, method, width in itertools.product(axes.tasks, axes.methods, widths)
    ]


def configuration(run: Run, learning_rate: float) -> Configuration:
    """Returns the method's default with the run's adapter size and learning rate, without dropout."""
    usual = default_configuration(run.method)
    own: dict[str, dict[str, Any]] = {
        'full': {},
        'lora': {'rank': run.adapter_size, 'dropout': 0.0},
        'prompt': {'prompt_length': run.adapter_size},
    }
    return dataclasses.replace(usual, learning_rate=learning_rate, **own[run.method])


def budget_examples(data_size: int, epochs: int, least: int, most: int) -> int:
    """Returns how many examples a run sees: so many epochs, but within bounds."""
    return min(max(epochs * data_size, least), most)


def run_flops(config: Phi3Config, run: Run, budget: int) -> float:
    """Returns the FLOPs of a run that sees `budget` examples: training and evaluations, as `finetune.costs` counts."""
    length_N, answer_N = (np.array([number]) for number in LENGTHS[run.task])
    training = training_flops(config, configuration(run, 1.0), length_N, answer_N)[0] * budget
    return float(training + forward_flops(config, length_N, answer_N)[0] * EVALUATED)


def pretraining_flops(config: Phi3Config, tokens: int, row_length: int = 256) -> float:
    """Returns the FLOPs of a pretraining: three passes over every token, the output head's included."""
    row_N = np.array([row_length])
    return float(3.0 * forward_flops(config, row_N, row_N)[0] * tokens / row_length)


def at_the_edge(rates: Mapping[str, float]) -> list[str]:
    """Returns the places (task/method/width) whose best rate is the first or last tried: a better may lie beyond."""
    tried = {place: LEARNING_RATES[place.split('/')[1]] for place in rates}
    return [place for place, rate in rates.items() if rate in (tried[place][0], tried[place][-1])]
