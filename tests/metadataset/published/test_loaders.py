"""Published formats, in small made files: what is read, and how a broken file is named."""

import gzip
import json

import numpy as np
import pytest

from metaft.errors import DataError
from metaft.finetune import budget
from metaft.metadataset.published import curves, loaders
from metaft.metadataset.tables import lower_is_better

OWN_T = np.array([0.25, 0.5, 1.0])


def write_lcbench(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        'X': rng.random((4, 2)).astype(np.float32),
        'Y': rng.random((3, 4, 8, 3)).astype(np.float32),
        'hp_names': np.array(['batch_size', 'lr']),
        'tasks': np.array(['3945', '7593', '1']),
        'metrics': np.array(['time', 'val_accuracy', 'val_cross_entropy']),
        'epochs': np.arange(1, 9),
    }
    arrays['Y'][..., 0] = np.arange(1, 9)
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return arrays


def test_lcbench(tmp_path):
    arrays = write_lcbench(tmp_path / 'lcbench.npz')
    first, *others = loaders.load('lcbench', tmp_path / 'lcbench.npz', fractions_T=OWN_T)
    assert [t.task for t in (first, *others)] == ['lcbench/3945', 'lcbench/7593', 'lcbench/1']
    np.testing.assert_allclose(first.values_CT, arrays['Y'][0][:, [1, 3, 7], 2])
    np.testing.assert_array_equal(first.costs_CT, np.tile([2.0, 4.0, 8.0], (4, 1)))
    assert first.configurations[1]['lr'] == pytest.approx(float(arrays['X'][1, 1])) and first.metric == 'loss'
    accuracy = loaders.load('lcbench', tmp_path / 'lcbench.npz', 'accuracy', OWN_T)[0]
    np.testing.assert_allclose(accuracy.values_CT, 1 - arrays['Y'][0][:, [1, 3, 7], 1] / 100, rtol=1e-6)


@pytest.mark.parametrize(
    'changes, told',
    [
        ({'X': None}, "no array 'X'"),
        ({'X': np.zeros((5, 2))}, 'has 4 along C, X has 5'),
        ({'X': np.zeros(4)}, 'X has shape'),
        ({'metrics': np.array(['time', 'a', 'b'])}, "no metric 'val_cross_entropy'"),
    ],
)
def test_a_broken_lcbench_is_named(tmp_path, changes, told):
    write_lcbench(tmp_path / 'lcbench.npz', **changes)
    with pytest.raises(DataError, match=told) as caught:
        loaders.load('lcbench', tmp_path / 'lcbench.npz')
    assert 'lcbench.npz' in str(caught.value)


def test_taskset_with_diverged_runs(tmp_path):
    values = np.random.default_rng(0).random((2, 3, 3, 51)).astype(np.float32)
    values[0, 1, 1, 26:] = np.nan
    named = {'hp_names': np.array(['a']), 'tasks': np.array(['x', 'y']), 'splits': np.array(['train', 'valid', 'test'])}
    np.savez(tmp_path / 't.npz', X=np.ones((3, 1), np.float32), Y=values, **named)
    table, _ = loaders.load('taskset', tmp_path / 't.npz', fractions_T=OWN_T)
    np.testing.assert_allclose(table.values_CT[0], values[0, 0, 1, [12, 25, 50]])
    np.testing.assert_array_equal(np.isposinf(table.values_CT[1]), [False, False, True])
    assert table.reference_value == pytest.approx(np.median(values[0, :, 1, 0]))
    np.savez(tmp_path / 't.npz', X=np.ones((3, 1)), Y=values, **(named | {'splits': np.array(['a', 'b', 'c'])}))
    with pytest.raises(DataError, match="'valid' is missing"):
        loaders.load('taskset', tmp_path / 't.npz')
    (tmp_path / 't.npz').write_bytes(b'PK torn')
    with pytest.raises(DataError, match='cannot be read as an npz file'):
        loaders.load('taskset', tmp_path / 't.npz')


DEBERTA = {'iteration': 1, 'num_train_epochs': 1, 'train_batch_size': 10, 'total_model_steps': 400, 'warmup_steps': 1,
           'learning_rate': 1e-5, 'cls_drop_out': 0.1,
           'learning_curves': {'matched': [[100, 0.5], [200, 0.7], [400, 0.8]],
                               'mismatched': [[100, 0.4], [200, 0.6], [400, 0.9]]}}  # fmt: skip
ALEXNET = {'iteration': 1, 'nan_train_loss': False, 'epochs': 2, 'batch_size': 9, 'lr': 0.1, 'lr_peak_epoch': 1,
           'momentum': 0.9, 'weight_decay': 0.0, 'label_smoothing': 0.0,
           'learning_curve': [{'time': 5.0, 'epoch': 0, 'top_1': 0.1},
                              {'time': 9.0, 'epoch': 1, 'top_1': 0.3}]}  # fmt: skip
NMT = {'task': 'finetune', 'dataset_name': 'fr-en', 'basemodel': 'xglm',
       'hyperparams': {'dataset_size': 1000, 'initial_lr': 1e-4, 'batch_size': 16, 'r': 2,
                       'num_layers': 24, 'model_size': 1024},
       'perplexity_curve': [4.0, 3.0, 2.0, 2.5], 'bleu_curve': [10.0, 20.0, 25.0, 30.0]}  # fmt: skip


def lines(path, *records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


def test_opda(tmp_path):
    longer = DEBERTA | {'total_model_steps': 800, 'learning_curves': {'matched': [[800, 0.9]], 'mismatched': []}}
    matched, mismatched = loaders.load('opda', lines(tmp_path / 'd.jsonl', DEBERTA, longer), fractions_T=OWN_T)
    np.testing.assert_allclose(matched.values_CT, [[0.5, 0.3, 0.2], [np.nan, np.nan, 0.1]])
    np.testing.assert_allclose(matched.costs_CT[0], [1000, 2000, 4000])
    assert len(mismatched.configurations) == 1 and matched.dataset == mismatched.dataset == 'mnli'
    broken = ALEXNET | {'nan_train_loss': True, 'epochs': 4}
    (table,) = loaders.load('opda', lines(tmp_path / 'a.jsonl', ALEXNET, broken), fractions_T=OWN_T)
    np.testing.assert_allclose(table.values_CT, [[np.nan, 0.9, 0.7], [0.9, 0.7, np.inf]])
    np.testing.assert_allclose(table.costs_CT[0], [np.nan, 5.0, 9.0])


def test_nmtlc(tmp_path):
    path = tmp_path / 'nmtlc.json'
    larger = NMT | {'hyperparams': NMT['hyperparams'] | {'num_layers': 48, 'model_size': 2048}}
    others = [NMT | {'task': 'scratch', 'basemodel': 'scratch'}, NMT | {'basemodel': 'bloomz'}, larger]
    path.write_text(json.dumps([NMT, *others]))
    _, table, large = loaders.load('nmtlc', path, fractions_T=OWN_T)
    assert large.task == 'nmtlc/fr-en-1000@xglm-2.9b'  # a size is a task of its own, not a repeat of the smaller one
    assert table.task == 'nmtlc/fr-en-1000@xglm-0.56b' and table.configurations == [
        {'initial_lr': 1e-4, 'batch_size': 16, 'r': 2}
    ]
    np.testing.assert_allclose(table.values_CT, np.log([[4.0, 3.0, 2.5]]))
    assert table.meta_features['log_num_train_examples'] == pytest.approx(np.log(1000))
    np.testing.assert_allclose(loaders.load('nmtlc', path, 'bleu', OWN_T)[1].values_CT, [[0.9, 0.8, 0.7]])


def write_peft(folder, runs='', curve='0,250,1.0,0.2,30\n0,500,0.9,0.4,60\n0,500,0.9,,60\n'):
    head = (
        'run_id,suite,status,max_steps,peft_type,r,alpha,dropout,target_modules,rslora,dora,batch_size,lr,wd,'
        'optimizer,sched\n'
    )
    row = '{},{},success,500,LORA,8,16,,"[""q""]",False,False,4,1e-4,0.1,AdamW,cosine\n'
    (folder / 'runs.csv').write_text(runs or head + row.format(0, 'MetaMathQA') + row.format(1, 'image-gen'))
    (folder / 'curves.csv').write_text('run_id,step,train_loss,valid_metric,elapsed_s\n' + curve)


def test_peft(tmp_path):
    write_peft(tmp_path)
    (table,) = loaders.load('peft', tmp_path, fractions_T=OWN_T)
    np.testing.assert_allclose(table.values_CT, [[np.nan, 0.8, 0.6]])
    np.testing.assert_allclose(table.costs_CT, [[np.nan, 30, 60]])
    assert table.configurations[0]['peft_type'] == 'LORA' and table.configurations[0]['dropout'] is None


def write_algoperf(folder, target='wer', hparams='{"lr": 0.1, "betas": [0.9]}', step='100'):
    row = f'0,v,external_tuning,amos,s,w1,jax,t,{target},2,"{hparams.replace(chr(34), chr(34) * 2)}"\n'
    head = 'run_id,version,track,submission,study,workload,framework,trial,target_metric,n_evals,hparams\n'
    with gzip.open(folder / 'runs.csv.gz', 'wt') as file:
        file.write(head + row)
    with gzip.open(folder / 'curves.csv.gz', 'wt') as file:
        file.write(f'run_id,global_step,submission_time_s,valid_metric\n0,0,1,9\n0,{step},5,0.5\n0,400,20,0.25\n')


def test_algoperf(tmp_path):
    write_algoperf(tmp_path)
    (table,) = loaders.load('algoperf', tmp_path, fractions_T=OWN_T)
    np.testing.assert_allclose(table.values_CT, [[0.5, 0.5, 0.25]])
    np.testing.assert_allclose(table.costs_CT, [[5, 5, 20]])
    own = {'track': 'external_tuning', 'submission': 'amos', 'framework': 'jax'}
    assert table.configurations == [own | {'hparams.lr': 0.1, 'hparams.betas': '[0.9]'}] and table.metric == 'wer'


def test_rectified(tmp_path):
    path = tmp_path / 'flan.csv'
    path.write_text('config name,0,200,400,800,size,family\nm/a,4,3,2,1,1000,F\nm/b,5,4,,2,2000,F\n')
    (table,) = loaders.load('rectified', path, fractions_T=OWN_T)
    np.testing.assert_allclose(table.values_CT, [[3, 2, 1], [4, 4, 2]])
    assert table.reference_value == 4.5 and table.configurations[1]['parameters'] == 2000.0
    assert loaders.load('rectified', path)[0].fractions_T[0] == 2.0**-13


def _text(path, text):
    path.write_text(text)
    return path


BROKEN = {
    'a line cut off': ('opda', lambda d: _text(d / 'x.jsonl', json.dumps(DEBERTA) + '\n{"it'), 'row 2 is broken JSON'),
    'no object': ('opda', lambda d: _text(d / 'x.jsonl', '3\n'), 'row 1 is a JSON int'),
    'a field too few': (
        'opda',
        lambda d: lines(d / 'x.jsonl', {k: v for k, v in DEBERTA.items() if k != 'warmup_steps'}),
        "row 1 has no field 'warmup_steps'",
    ),
    'a text for a number': (
        'opda',
        lambda d: lines(d / 'x.jsonl', DEBERTA | {'learning_rate': 'x'}),
        'learning_rate is',
    ),
    'steps that fall': (
        'opda',
        lambda d: lines(
            d / 'x.jsonl', DEBERTA | {'learning_curves': {'matched': [[9, 0.1], [3, 0.2]], 'mismatched': []}}
        ),
        'run 1 has budgets that do not ascend',
    ),
    'no pairs': (
        'opda',
        lambda d: lines(d / 'x.jsonl', DEBERTA | {'learning_curves': {'matched': [3], 'mismatched': []}}),
        'pairs of step and accuracy',
    ),
    'an empty file': ('opda', lambda d: _text(d / 'x.jsonl', '\n'), 'holds no runs'),
    'a list cut off': ('nmtlc', lambda d: _text(d / 'x.json', json.dumps([NMT])[:-9]), 'broken JSON'),
    'nothing finetuned': (
        'nmtlc',
        lambda d: _text(d / 'x.json', json.dumps([NMT | {'task': 'scratch'}])),
        'holds no run',
    ),
    'another base': (
        'nmtlc',
        lambda d: _text(d / 'x.json', json.dumps([NMT | {'basemodel': 'z'}])),
        "basemodel is 'z'",
    ),
    'another size': (
        'nmtlc',
        lambda d: _text(d / 'x.json', json.dumps([NMT | {'hyperparams': NMT['hyperparams'] | {'num_layers': 3}}])),
        r'\(3, 1024\); known are',
    ),
    'a word in a curve': (
        'nmtlc',
        lambda d: _text(d / 'x.json', json.dumps([NMT | {'perplexity_curve': [1, 'a']}])),
        "perplexity_curve holds 'a'",
    ),
    'no curves file': ('peft', lambda d: (_text(d / 'runs.csv', 'a\n1\n'), d)[1], "no column 'suite'"),
    'a missing column': ('peft', lambda d: (write_peft(d, runs='run_id,suite\n0,x\n'), d)[1], "no column 'status'"),
    'a number that is none': (
        'peft',
        lambda d: (write_peft(d, curve='0,250,1.0,high,30\n'), d)[1],
        "row 2: valid_metric is 'high', no number",
    ),
    'no gzip': (
        'algoperf',
        lambda d: (write_algoperf(d), _text(d / 'runs.csv.gz', 'x'), d)[2],
        'cannot be read as CSV',
    ),
    'another metric': ('algoperf', lambda d: (write_algoperf(d, target='f1'), d)[1], "target_metric 'f1'"),
    'hparams cut off': ('algoperf', lambda d: (write_algoperf(d, hparams='{"lr'), d)[1], 'hparams of run 0 is broken'),
    'no sizes': ('rectified', lambda d: _text(d / 'x.csv', 'config name,size,family\na,1,F\n'), 'data sizes none'),
    'not there': ('rectified', lambda d: d / 'gone.csv', 'rectified reads flan.csv'),
    'unknown kind': ('lcbnch', lambda d: d, "kind 'lcbnch'"),
}


@pytest.mark.parametrize('kind, make, told', BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path, kind, make, told):
    with pytest.raises(DataError, match=told) as caught:
        loaders.load(kind, make(tmp_path))
    assert str(tmp_path) in str(caught.value) or kind == 'lcbnch'


def test_a_folder_stands_for_its_file_and_a_file_for_its_folder(tmp_path):
    write_lcbench(tmp_path / 'other.npz')
    assert loaders.locate('lcbench', tmp_path) == tmp_path / 'other.npz'
    write_lcbench(tmp_path / 'more.npz')
    with pytest.raises(DataError, match=r'should hold one file.*found more.npz, other.npz; give the file'):
        loaders.locate('lcbench', tmp_path)
    write_lcbench(tmp_path / 'lcbench.npz')
    assert loaders.locate('lcbench', tmp_path) == tmp_path / 'lcbench.npz'
    write_peft(tmp_path)
    assert loaders.locate('peft', tmp_path / 'runs.csv') == loaders.locate('peft', tmp_path) == tmp_path
    with pytest.raises(DataError, match=r'one file that nmtlc reads .nmtlc.json., found none'):
        loaders.locate('nmtlc', tmp_path)


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(DataError, match="no metric 'f1'; allowed are perplexity, bleu"):
        loaders.load('nmtlc', tmp_path, 'f1')


def test_a_run_that_ends_early_is_not_measured_after_and_nearly_whole_is_whole():
    curve = lambda *budgets: curves.Curve({}, budgets, [1.0] * len(budgets), budgets)
    table = curves.to_table('t', 'loss', [curve(1, 5), curve(96), curve(100)], budget.fractions(), place='x')
    np.testing.assert_array_equal(np.isnan(table.values_CT[0]), budget.fractions() * 100 * 0.95 > 5)
    assert np.isfinite(table.values_CT[1, -1]) and np.isnan(table.values_CT[1, -2])


@pytest.mark.parametrize(
    'metric, better, worse',
    [
        ('loss', 1, 2),
        ('accuracy', 0.9, 0.1),
        ('bleu', 40, 3),
        ('wer', 0, 1),
        ('perplexity', 2, 9),
        ('exact_match', 1, 0),
    ],
)
def test_lower_is_better(metric, better, worse):
    assert lower_is_better(metric, better) < lower_is_better(metric, worse)
    assert np.isnan(lower_is_better(metric, np.nan))
