"""Published finetuning curves: opda's DeBERTa (and AlexNet), nmtlc's LoRA for translation, PEFT's method comparison.

Costs: AlexNet and PEFT seconds; DeBERTa examples seen (steps x batch size); nmtlc checkpoints x parameters x batch
size.
"""

from pathlib import Path

import numpy as np

from metaft.errors import DataError
from metaft.metadataset.published import files
from metaft.metadataset.published.curves import Curve, to_table
from metaft.metadataset.tables import TaskTable

_DEBERTA = ('num_train_epochs', 'train_batch_size', 'learning_rate', 'warmup_steps', 'cls_drop_out')
_ALEXNET = ('epochs', 'batch_size', 'lr', 'lr_peak_epoch', 'momentum', 'weight_decay', 'label_smoothing')
_NMTLC = ('initial_lr', 'batch_size', 'r')
# Parameters by base model and (layers, width): the sizes in the names of their releases.
_NMTLC_PARAMETERS = {
    'bloomz': {(24, 1024): 5.6e8, (24, 2048): 1.7e9, (30, 2560): 3.0e9},
    'xglm': {(24, 1024): 5.64e8, (24, 2048): 1.7e9, (48, 2048): 2.9e9},
}
_PEFT = tuple('peft_type r alpha dropout target_modules rslora dora batch_size lr wd optimizer sched'.split())


def opda(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads `deberta-base_mnli.jsonl` (two tasks: matched and mismatched) or `alexnet.jsonl`.

    Schedules end with the run, so a full run is a run's own length. A run without a measurement is left out.
    """
    records = files.json_records(path)
    if 'learning_curve' in records[0][1]:
        return [_alexnet(path, records, metric, fractions_T)]
    tables = []
    for name in ('matched', 'mismatched'):
        curves = []
        for place, record in records:
            curve = files.entry(files.entry(record, 'learning_curves', place, dict), name, place, list)
            if not all(isinstance(point, list) and len(point) == 2 for point in curve):
                raise DataError(f'{place}: learning_curves.{name} must hold pairs of step and accuracy')
            if curve:
                steps = np.array([point[0] for point in curve], np.float64)
                configuration = {key: files.entry(record, key, place) for key in _DEBERTA}
                costs = steps * configuration['train_batch_size']
                total = files.entry(record, 'total_model_steps', place)
                curves.append(Curve(configuration, steps, [point[1] for point in curve], costs, total))
        task = f'opda/deberta-base-mnli-{name}'
        tables.append(to_table(task, metric, curves, fractions_T, place=f'{path}', dataset='mnli'))
    return tables


def _alexnet(path: Path, records: list, metric: str, fractions_T: np.ndarray) -> TaskTable:
    curves = []
    for place, record in records:
        configuration = {key: files.entry(record, key, place) for key in _ALEXNET}
        curve = files.entry(record, 'learning_curve', place, list)
        if curve:
            epochs = [files.entry(point, 'epoch', place) + 1 for point in curve]
            values = [files.entry(point, 'top_1', place) for point in curve]
            seconds = [files.entry(point, 'time', place) for point in curve]
            if files.entry(record, 'nan_train_loss', place, bool):  # it diverged in the epoch after
                epochs, values, seconds = [*epochs, epochs[-1] + 1], [*values, np.nan], [*seconds, seconds[-1]]
            curves.append(Curve(configuration, epochs, values, seconds, max(configuration['epochs'], epochs[-1])))
    return to_table('opda/alexnet-imagenet', metric, curves, fractions_T, place=f'{path}')


def nmtlc(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads the LoRA finetunes of `nmtlc.json`: a task a base model, its size and the training size.

    The curves trained from scratch in the same file are left out: some are two runs glued together. Runs stop by
    patience, so a full run is a run's own length.
    """
    field = f'{metric}_curve'
    groups: dict[tuple[str, str, float, int], list[Curve]] = {}
    for place, record in files.json_records(path):
        if record.get('task') != 'finetune':
            continue
        options = files.entry(record, 'hyperparams', place, dict)
        base, size = files.entry(record, 'basemodel', place, str), files.entry(options, 'dataset_size', place, int)
        if base not in _NMTLC_PARAMETERS:
            raise DataError(f'{place}: basemodel is {base!r}; known are {", ".join(_NMTLC_PARAMETERS)}')
        shape = files.entry(options, 'num_layers', place, int), files.entry(options, 'model_size', place, int)
        if shape not in _NMTLC_PARAMETERS[base]:
            known = ', '.join(map(str, _NMTLC_PARAMETERS[base]))
            raise DataError(f'{place}: {base} has (num_layers, model_size) {shape}; known are {known}')
        parameters = _NMTLC_PARAMETERS[base][shape]
        configuration = {name: files.entry(options, name, place) for name in _NMTLC}
        values = files.points(record, field, place)
        checkpoints = np.arange(1, len(values) + 1)
        costs = checkpoints * parameters * configuration['batch_size']
        key = (files.entry(record, 'dataset_name', place, str), base, parameters, size)
        groups.setdefault(key, []).append(Curve(configuration, checkpoints, values, costs, len(values)))
    if not groups:
        raise DataError(f'{path} holds no run with task "finetune"')
    return [
        to_table(
            f'nmtlc/{dataset}-{size}@{base}-{parameters / 1e9:.2g}b',
            metric,
            curves,
            fractions_T,
            place=f'{path}',
            dataset=f'{dataset}-{size}',
            meta_features={
                'log_num_train_examples': float(np.log(size)),
                'log_num_parameters': float(np.log(parameters)),
            },
        )
        for (dataset, base, parameters, size), curves in sorted(groups.items())
    ]


def peft(path: Path, metric: str, fractions_T: np.ndarray) -> list[TaskTable]:
    """Reads a folder with `runs.csv` and `curves.csv`: one task, MetaMathQA (that of images measures other things)."""
    runs = files.table(path / 'runs.csv', ('suite', 'status', *_PEFT), ('run_id', 'max_steps'))
    points = files.table(path / 'curves.csv', (), ('run_id', 'step', 'valid_metric', 'elapsed_s'))
    runs = runs[(runs['suite'] == 'MetaMathQA') & (runs['status'] == 'success')]
    measured = points.dropna(subset=['valid_metric', 'elapsed_s']).sort_values('step').groupby('run_id')
    curves = []
    for row in runs.to_dict('records'):
        if row['run_id'] in measured.groups:
            curve = measured.get_group(row['run_id'])
            configuration = {
                name: None if row[name] != row[name] else row[name] for name in _PEFT
            }  # NaN: not one's own
            curves.append(
                Curve(
                    configuration,
                    curve['step'].to_numpy(),
                    curve['valid_metric'].to_numpy(),
                    curve['elapsed_s'].to_numpy(),
                    row['max_steps'],
                )
            )
    return [to_table('peft/metamathqa', metric, curves, fractions_T, place=f'{path}')]
