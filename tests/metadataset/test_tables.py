"""Rows become dense tables; a dataset is never split."""

import dataclasses

import numpy as np
import pytest

from metaft.errors import DataError
from metaft.finetune import budget
from metaft.metadataset import records, splits, store, tables
from tests.metadataset.test_store import measurement

MAX_EXAMPLES = 1024


def task_record(task='t', dataset='d', **meta_features):
    return records.TaskRecord(
        task=task,
        dataset=dataset,
        base_model='b',
        max_examples=MAX_EXAMPLES,
        reference_loss=3.0,
        reference_exact_match=0.25,
        reference_seconds=1e-3,
        meta_features=meta_features,
    )


def run(run_id, batch_size, num, task='t', seed=0, diverges_at=None):
    """The first `num` measurements of a run with loss 10 - t and cost t."""
    grid = budget.grid(MAX_EXAMPLES, batch_size)
    rows = []
    for t in range(num):
        diverged = diverges_at is not None and t >= diverges_at
        rows.append(
            measurement(
                run_id=run_id,
                task=task,
                seed=seed,
                budget_steps=grid.steps_T[t],
                budget_examples=grid.examples_T[t],
                status='diverged' if diverged else 'running',
                validation_loss=np.nan if diverged else 10.0 - t,
                validation_exact_match=np.nan if diverged else t / 20,
                cost_seconds=float(t),
                configuration={'method': 'lora', 'batch_size': batch_size, 'rank': 8 if run_id == 'a' else None},
            )
        )
        if diverged:
            break
    return rows


def frames(rows, tasks):
    return store.to_frame(rows), store.to_frame(tasks)


def test_tables_are_dense_with_partial_and_diverged_runs():
    rows = run('a', 8, 13) + run('b', 8, 5) + run('c', 8, 13, diverges_at=7) + run('d', 8, 13, seed=1)
    (table,) = tables.task_tables(*frames(rows, [task_record(size=2.0, entropy=None)]))
    np.testing.assert_array_equal(table.values_CT[0], 10.0 - np.arange(13))
    np.testing.assert_array_equal(np.isnan(table.values_CT[1]), np.arange(13) >= 5)
    np.testing.assert_array_equal(np.isposinf(table.values_CT[2]), np.arange(13) >= 7)
    np.testing.assert_array_equal(table.costs_CT[3], np.arange(13.0))
    assert table.configurations[0] == {'method': 'lora', 'batch_size': 8, 'rank': 8}
    assert table.configurations[1]['rank'] is None
    assert table.reference_value == 3.0
    assert table.meta_features['size'] == 2.0 and np.isnan(table.meta_features['entropy'])


def test_exact_match_becomes_an_error():
    (table,) = tables.task_tables(*frames(run('a', 8, 13), [task_record()]), metric='exact_match')
    np.testing.assert_allclose(table.values_CT[0], 1.0 - np.arange(13) / 20)
    assert table.reference_value == 0.75


def test_fractions_of_less_than_one_update_share_a_measurement():
    (table,) = tables.task_tables(*frames(run('a', 64, 13), [task_record()]))
    assert budget.grid(MAX_EXAMPLES, 64).steps_T[:5] == (1, 1, 1, 1, 1)
    assert not np.isnan(table.values_CT).any()
    assert len(set(table.values_CT[0, :5])) == 1


def test_a_measurement_off_the_grid_and_a_task_without_meta_features_are_refused():
    with pytest.raises(DataError, match='step 999'):
        tables.task_tables(*frames([measurement(budget_steps=999)], [task_record()]))
    with pytest.raises(DataError, match='meta-features of t '):
        tables.task_tables(*frames([measurement()], [task_record(task='other')]))


def test_no_dataset_is_on_both_sides_of_a_fold():
    rows, tasks = [], []
    for i in range(9):
        rows += run('a', 8, 2, task=f't{i}')
        tasks.append(task_record(task=f't{i}', dataset=f'd{i // 2}'))
    found = tables.task_tables(*frames(rows, tasks))
    folds = splits.folds(found, num_folds=3)
    for fold in folds:
        assert not {table.dataset for table in fold.train} & {table.dataset for table in fold.test}
        assert len(fold.train) + len(fold.test) == 9
    assert sorted(table.task for fold in folds for table in fold.test) == sorted(table.task for table in found)
    with pytest.raises(DataError, match="did you mean 'd1'"):
        splits.leave_out(found, ['d1x'])


def test_younger_fields_are_there_only_where_they_say_something_new():
    """An older record and a younger one of the same configuration are the same configuration."""
    old, plain = run('a', 8, 2), {'optimizer': 'adamw', 'dora': False, 'prompt_init': None}
    said = {**old[0].configuration, **plain}
    same = [dataclasses.replace(m, configuration=said) for m in run('b', 8, 2)]
    lion = [dataclasses.replace(m, configuration={**said, 'optimizer': 'lion'}) for m in run('c', 8, 2)]
    (table,) = tables.task_tables(*frames(old + same + lion, [task_record()]))
    assert table.configurations[0] == table.configurations[1] == {'method': 'lora', 'batch_size': 8, 'rank': 8}
    assert table.configurations[2] == {'method': 'lora', 'batch_size': 8, 'rank': 8, 'optimizer': 'lion'}
