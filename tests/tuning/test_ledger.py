"""The records of a live search survive what happens to it."""

import dataclasses
import json

import numpy as np
import pytest

from metaft.errors import WorkdirError
from metaft.finetune.search_space import Configuration
from metaft.metadataset.records import Measurement
from metaft.tuning.ledger import Ledger, score

CONFIGURATION = Configuration()


def measurement(run='lora-0000', steps=4, loss=1.0, exact=0.5, status='running'):
    return Measurement(
        run_id=run,
        task='t',
        dataset='d',
        base_model='b',
        seed=0,
        status=status,
        budget_steps=steps,
        budget_examples=steps * 16,
        train_loss=1.0,
        validation_loss=None if status == 'diverged' else loss,
        validation_exact_match=None if status == 'diverged' else exact,
        cost_seconds=1.0,
        cost_flops=1.0,
        cost_tokens=1,
        group='g',
        slot=0,
        host='h',
        versions={},
        configuration=CONFIGURATION.to_dict(),
    )


def adapter(value):
    return lambda: {'layers.0.mlp.down_proj': {'lora_A': np.full((2, 3), value, np.float32)}}


def test_incumbent_and_its_adapter_survive_a_restart(tmp_path):
    ledger = Ledger(tmp_path, 'loss')
    for value, m in enumerate([measurement(loss=2.0), measurement(steps=8, loss=1.0), measurement(steps=16, loss=1.5)]):
        ledger.record(m, adapter(value))
    again = Ledger(tmp_path, 'loss')
    assert again.incumbent().budget_steps == 8
    configuration, kept = again.incumbent_adapter()
    assert configuration == CONFIGURATION
    np.testing.assert_array_equal(kept['layers.0.mlp.down_proj']['lora_A'], np.full((2, 3), 1.0))
    assert len(list(tmp_path.glob('adapter-*'))) == 1


def test_diverged_is_never_the_incumbent(tmp_path):
    ledger = Ledger(tmp_path, 'loss')
    ledger.record(measurement(status='diverged'), adapter(0))
    assert ledger.incumbent() is None
    with pytest.raises(WorkdirError, match='finite loss'):
        ledger.incumbent_adapter()


def test_torn_tail_is_dropped_and_repeats_count_once(tmp_path):
    ledger = Ledger(tmp_path, 'loss')
    ledger.record(measurement(loss=2.0), adapter(0))
    ledger.record(measurement(loss=1.9), adapter(0))  # the same step again, after a crash
    with open(tmp_path / 'measurements.jsonl', 'a') as file:
        file.write('{"schema_version": 1, "run_id": "lo')
    again = Ledger(tmp_path, 'loss')
    assert again.num_torn == 1 and len(again.measurements) == 1 and again.incumbent().validation_loss == 1.9


def test_spent_budget_survives_a_restart(tmp_path):
    (tmp_path / 'progress.json').write_text(json.dumps({'spent_seconds': 41.0}))
    ledger = Ledger(tmp_path, 'loss')
    assert ledger.spent_seconds == 41.0
    ledger.start_clock()
    ledger.stop_clock()
    assert 41.0 < Ledger(tmp_path, 'loss').spent_seconds < 42.0


def test_flops_and_tokens_are_spent_by_runs_and_survive_a_restart(tmp_path):
    ledger = Ledger(tmp_path, 'loss')
    for run, steps, flops in (('lora-0001', 4, 1e9), ('lora-0001', 8, 2e9), ('full-0002', 4, 5e9)):
        found = dataclasses.replace(measurement(run, steps), cost_flops=flops, cost_tokens=int(flops / 1e6))
        ledger.record(found, adapter(0))
    for again in (ledger, Ledger(tmp_path, 'loss')):
        assert again.spent('flops') == 7e9 and again.spent('tokens') == 7000  # cumulative over a run, added over runs
        assert again.spent('seconds') == again.spent_seconds


def test_exact_match_ties_are_told_apart_by_the_loss():
    better, worse = measurement(exact=1.0, loss=0.1), measurement(exact=1.0, loss=0.2)
    assert (
        score(better, 'exact_match')
        < score(worse, 'exact_match')
        < score(measurement(exact=0.9, loss=0.01), 'exact_match')
    )
