"""metaft/tuning/study.py: one factor at a time, every run once."""

import itertools

from metaft.tuning import study
from metaft.tuning.study import Axes

AXES = Axes(
    tasks=('translation',),
    methods=('full', 'lora', 'prompt'),
    widths=(32, 64, 128),
    tokens=(10, 100, 1000),
    adapter_sizes={'lora': (1, 4, 8), 'prompt': (4, 8)},
    data_sizes=(64, 128),
    seeds=2,
    width=64,
    adapter_size=8,
)


def test_one_factor_is_varied_at_a_time_and_no_run_occurs_twice():
    runs = study.design(AXES)
    assert len(runs) == len(set(runs))
    places = {m: {(r.width, r.tokens, r.adapter_size) for r in runs if r.method == m} for m in AXES.methods}
    series = {(32, 1000), (64, 1000), (128, 1000), (64, 10), (64, 100)}
    assert places['full'] == {(width, tokens, 1) for width, tokens in series}
    usual = {(width, tokens, 8) for width, tokens in series}
    assert places['lora'] == usual | {(64, 1000, 1), (64, 1000, 4)} and places['prompt'] == usual | {(64, 1000, 4)}
    for method in AXES.methods:  # the same data sizes for all
        at = {(r.data_size, r.seed) for r in runs if r.method == method}
        assert at == set(itertools.product((64, 128), (0, 1)))


def test_tuning_uses_none_of_the_studys_seeds_and_configurations_are_the_runs():
    (run, *_) = study.tuning(AXES, (64,))
    assert run.seed not in {r.seed for r in study.design(AXES)} and run.data_size == 128
    lora = next(r for r in study.design(AXES) if r.method == 'lora')
    found = study.configuration(lora, 0.01)
    assert (found.rank, found.learning_rate, found.dropout) == (lora.adapter_size, 0.01, 0.0)
    assert [study.budget_examples(size, 8, 1024, 4096) for size in (16, 256, 4096)] == [1024, 2048, 4096]
    assert study.at_the_edge({'summary/lora/64': 1e-1, 'summary/full/64': 1e-3}) == ['summary/lora/64']
