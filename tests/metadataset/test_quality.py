"""Quality numbers on made runs, where the right answer is known."""

import numpy as np
import pandas as pd
import pytest

from metaft.finetune import budget
from metaft.metadataset import quality, store
from tests.metadataset.test_store import measurement
from tests.metadataset.test_tables import MAX_EXAMPLES, task_record


def rows_of(task, losses, seeds=1, method='lora', noise=0.0):
    """Whole runs whose loss falls by half on the way to `losses[i]`, of configurations 0, 1, ...; None diverges."""
    grid = budget.grid(MAX_EXAMPLES, 8)
    rows = []
    for i, final in enumerate(losses):
        for seed in range(seeds):
            for t, (steps, examples) in enumerate(zip(grid.steps_T, grid.examples_T)):
                last = t == len(grid.steps_T) - 1
                diverged = final is None and last
                value = np.nan if diverged else (final or 1.0) * (2 - t / 12) + noise * (2 * seed - 1)
                rows.append(
                    measurement(
                        run_id=f'{task}-{i}-{seed}',
                        task=task,
                        dataset=task.partition('@')[0],
                        seed=seed,
                        status='diverged' if diverged else 'finished' if last else 'running',
                        budget_steps=steps,
                        budget_examples=examples,
                        validation_loss=value,
                        cost_seconds=2e-9 * examples * (1 + i),
                        cost_flops=1.0 * examples * (1 + i),
                        configuration={'method': method, 'batch_size': 8, 'learning_rate': 1e-4 * 2.0**i, 'rank': i},
                    )
                )
    return rows


def frames(rows, **sizes):
    tasks = [task_record(t, t.partition('@')[0], log_num_train_examples=float(np.log(sizes.get(t.split('_')[0], 64))))
             for t in dict.fromkeys(row.task for row in rows)]  # fmt: skip
    return store.to_frame(rows), store.to_frame(tasks)


LOSSES = [0.5, 1.0, 2.0, 4.0, None, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2]


def test_spread_is_in_units_of_the_noise_between_seeds():
    runs = quality.final_runs(*frames(rows_of('a', LOSSES, seeds=2, noise=0.01)))
    assert len(runs) == 2 * len(LOSSES) and runs['key'].nunique() == len(LOSSES)
    (row,) = quality.per_task(runs, runs['key'].iloc[2]).to_dict('records')
    assert row['diverged'] == pytest.approx(1 / 11) and row['learning'] == pytest.approx(9 / 11)  # reference 3.0
    assert row['best'] == pytest.approx(0.49) and row['default'] == pytest.approx(1.0)
    assert row['noise'] == pytest.approx(0.01 * np.sqrt(2)) and row['best_exact_match'] == 0.25
    assert row['default_gap_in_noise'] == pytest.approx(0.51 / (0.01 * np.sqrt(2))) and not row['default_near_best']
    once = quality.per_task(runs[runs['seed'] == 0], None).iloc[0]
    assert np.isnan(once['noise']) and np.isnan(once['default'])


def test_correlations_are_of_shared_configurations_and_of_those_that_learn():
    rows = rows_of('recall_1', LOSSES) + rows_of('recall_2', [2 * x if x else 9.0 for x in LOSSES])
    rows += rows_of('rule_1', [1 / x if x else 1.0 for x in LOSSES]) + rows_of('rule_2', LOSSES[:5])
    measurements, tasks = frames(rows, recall=4, rule=4096)
    pairs = quality.correlations(quality.final_runs(measurements, tasks)).set_index(['a', 'b'])
    alike = pairs.loc[('recall_1', 'recall_2')]
    assert alike['learning'] == pytest.approx(1.0) and alike['num_learning'] == 8  # 2.0 and 4.0 become 4.0 and 8.0
    assert pairs.loc[('recall_1', 'rule_1')]['learning'] == pytest.approx(-1.0)
    assert np.isnan(pairs.loc[('recall_1', 'rule_2')]['all'])  # too few
    relations = quality.by_relation(pairs.reset_index(), tasks)
    assert relations['median']['same kind'] == pytest.approx(1.0)
    assert relations['median']['training sizes more than a factor of 16 apart'] == pytest.approx(-1.0)
    assert 'different base models' not in relations.index


def test_early_ranks_are_perfect_where_curves_do_not_cross():
    table = quality.early_ranks(*frames(rows_of('a', LOSSES)))
    assert table.shape == (1, 13) and np.allclose(table, 1.0)


def test_costs_that_follow_flops_have_exponent_one():
    (row,) = quality.costs(quality.final_runs(*frames(rows_of('a', LOSSES)))).to_dict('records')
    assert row['exponent'] == pytest.approx(1.0) and row['r2'] == pytest.approx(1.0)
    assert row['spread'] == pytest.approx(1.0) and row['GFLOP/s'] == pytest.approx(0.5)
    assert row['runs'] == 10  # the diverged one is none


def test_importance_finds_what_matters():
    rng = np.random.default_rng(0)
    rate, other = rng.permutation(40), rng.permutation(40)
    runs = pd.DataFrame({
        'task': 'a', 'value': np.abs(rate - 20.0), 'configuration.learning_rate': 10.0 ** (-rate / 10.0),
        'configuration.rank': pd.array([None if o % 3 == 0 else int(o) for o in other], 'Int64'),
        'configuration.schedule': ['linear', 'cosine'] * 20, 'configuration.same': 1,
    })  # fmt: skip
    (row,) = quality.importance(runs).to_dict('records')
    assert set(row) == {'learning_rate', 'rank', 'schedule', 'out_of_bag_r2'}
    assert row['learning_rate'] > 0.8 and row['learning_rate'] + row['rank'] + row['schedule'] == pytest.approx(1.0)
    assert quality.importance(runs.iloc[:10]).empty
