"""Exported tasks are read back as they were, from both forms."""

import pytest

from metaft.tasks import catalogue
from metaft.tasks.dataset import load_dataset

NAMES = ('known_twice_16', next(iter(catalogue.HELD_OUT)))


def test_both_forms_hold_the_task_and_the_datasheet_says_what_it_is(run_experiment, tmp_path):
    for _ in range(2):  # again over what is there
        run_experiment('export_tasks', f'--workdir={tmp_path}', f'--datasets={",".join(NAMES)}')
    for name in NAMES:
        dataset, directory = catalogue.make(name), tmp_path / name
        files = [directory / f'{split}.jsonl' for split in ('train', 'validation', 'test')]
        for found in (
            load_dataset(*files, allow_overlap=True),
            load_dataset(directory / 'hugging_face', allow_overlap=True),
        ):
            assert (found.train, found.validation, found.test) == (dataset.train, dataset.validation, dataset.test)
        sheet = (directory / 'datasheet.md').read_text()
        assert f'| train | {len(dataset.train)} |' in sheet and f'| seed | {catalogue.knobs(name)["seed"]} |' in sheet
        assert 'Licence: CC0 1.0' in sheet and ('Held out' in sheet) == (name in catalogue.HELD_OUT)


def test_an_unknown_task_is_named(run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run_experiment('export_tasks', f'--workdir={tmp_path}', '--datasets=recall_job_17')
    assert caught.value.code == 2 and 'recall_job_16' in capsys.readouterr().err
