"""The report of a small made meta-dataset: every section and picture; and of what is none."""

import pytest

from metaft.finetune.search_space import default_configuration, sample, search_space
from metaft.metadataset import store
from tests.metadataset.test_quality import LOSSES, frames, rows_of
from tests.metadataset.test_store import measurement


def test_every_section_and_picture_is_written(run_experiment, tmp_path):
    rows = []
    for task, factor in (('recall_1@b', 1.0), ('rule_1@b', 0.5)):
        configurations = [default_configuration(), *sample(search_space(['lora', 'full']), 25, 0)]
        for i, configuration in enumerate(configurations):
            loss = factor * LOSSES[i % 4] + 0.01 * i
            more = {'configuration': configuration.to_dict(), 'run_id': f'{task}-{i}', 'task': task}
            steps = {'budget_steps': 1024 // configuration.batch_size, 'budget_examples': 1024}
            kept = {'validation_loss': loss, 'cost_seconds': 1.0 + i, 'cost_flops': 2.0 + i, 'dataset': task[:-2]}
            rows.append(measurement(status='finished', **more, **steps, **kept))
    store.write_parquet(rows, tmp_path / 'measurements.parquet')
    records = frames(rows_of('recall_1@b', [1.0]) + rows_of('rule_1@b', [1.0]))[1].to_dict('records')
    store.write_parquet([store.TaskRecord.from_row(record) for record in records], tmp_path / 'tasks.parquet')
    run_experiment('quality_report', f'--metadataset={tmp_path}', f'--output={tmp_path / "quality.md"}')
    text = (tmp_path / 'quality.md').read_text()
    for heading in ('Spread against noise', 'Ranks between tasks', 'Early ranks', 'Costs', 'Importance'):
        assert f'## {heading}' in text
    for name in ('spread', 'correlations', 'early_ranks', 'costs', 'importance'):
        assert f'](quality/{name}.png)' in text and (tmp_path / 'quality' / f'{name}.png').stat().st_size > 1000
    assert '| recall_1@b | 26 | 0 |' in text and '| tasks | 2 |' in text and 'median 1.00, outside of the aim' in text


def test_what_is_no_meta_dataset_is_told(run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run_experiment('quality_report', f'--metadataset={tmp_path}', f'--output={tmp_path / "quality.md"}')
    assert caught.value.code == 2 and 'there is no meta-dataset at' in capsys.readouterr().err
