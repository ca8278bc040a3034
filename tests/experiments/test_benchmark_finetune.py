"""The benchmark against PEFT, tiny; its table, which goes into docs/benchmarks.md as it is."""

import json

import pandas as pd
import pytest

from experiments import benchmark_finetune as benchmark

parity = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::UserWarning')


def row(kind, side, repeat, seconds, peak=float('nan')):
    more = {'tokens': 600, 'utilisation': 0.5, 'peak_bytes': peak}
    return {'shape': 'some', 'kind': kind, 'side': side, 'repeat': repeat, 'seconds': seconds} | more


def test_the_table_has_medians_ratios_within_repeats_and_what_was_not_measured():
    runs = [row('run', side, repeat, s) for repeat, (a, b) in enumerate([(1, 2), (2, 3), (3, 9)])
            for side, s in (('metaft', a), ('peft', b))]  # fmt: skip
    sweeps = [row('sweep cold', 'metaft', 0, 10.0), row('sweep', 'peft', 0, 30.0), row('sweep warm', 'metaft', 0, 5.0)]
    lines = benchmark.summary(pd.DataFrame(runs + sweeps), ['mini_4x512', 'mini_1x512']).splitlines()
    assert lines[2:] == [
        '| some | run | 300 tokens/s | 200 tokens/s | 2.00 [1.50, 3.00] |',
        '| some | sweep cold | 10.0 s | 30.0 s | 3.00 [3.00, 3.00] |',
        '| some | sweep warm | 5.0 s | 30.0 s | 6.00 [6.00, 6.00] |',
        '| mini_4x512 | run | not measured: needs an accelerator | not measured | |',
        '| mini_1x512 | sweep | not measured: needs an accelerator | not measured | |',
    ]
    assert all(line.count('|') == lines[0].count('|') for line in lines)
    on_gpu = benchmark.summary(pd.DataFrame([row('run', 'metaft', 0, 1, 13 * 2**30), row('run', 'peft', 0, 2, 2**34)]))
    assert '| 600 tokens/s, 50% of peak FLOP/s, 13.0 GiB | 300 tokens/s, 50% of peak FLOP/s, 16.0 GiB |' in on_gpu


@parity
def test_a_run_on_both_sides(run_experiment, tmp_path):
    pytest.importorskip('torch')
    pytest.importorskip('peft')
    run_experiment('benchmark_finetune', f'--workdir={tmp_path}', '--shapes=shipped,mini_8x2048', '--steps=2',
                   '--repeats=1', '--sweep_repeats=0')  # fmt: skip
    frame = pd.read_csv(tmp_path / 'benchmark.csv')
    assert set(frame['side']) == {'metaft', 'peft'} and frame['tokens'].nunique() == 1 and (frame['seconds'] > 0).all()
    text = (tmp_path / 'benchmark.md').read_text()
    assert 'launch/local.sh benchmark_finetune' in text and 'peft ' in text
    assert '| mini_8x2048 | run | not measured: needs an accelerator |' in text


@parity
@pytest.mark.slow
def test_a_sweep_on_both_sides(run_experiment, tmp_path, capsys):
    pytest.importorskip('torch')
    pytest.importorskip('peft')
    run_experiment('benchmark_finetune', f'--workdir={tmp_path}', '--shapes=shipped', '--steps=2', '--repeats=1',
                   '--sweep_repeats=1', '--num_configurations=2', '--sweep_steps=30')  # fmt: skip
    frame = pd.read_csv(tmp_path / 'benchmark.csv').set_index('kind')
    assert {'sweep cold', 'sweep', 'sweep warm'} <= set(frame.index)
    losses = frame['best_loss'].dropna()
    # The same weights and rate, other rows and dropout: both sides learn, and about as much.
    assert len(losses) == 3 and losses.max() == pytest.approx(losses.min(), rel=0.2)


def test_both_sides_need_the_same_flops_and_see_the_same_rows(tmp_path):
    settings = benchmark.Settings(workdir=tmp_path)
    rows, again = (benchmark.make_rows(settings, 'shipped', 16, 0) for _ in range(2))
    assert json.dumps(rows.tokens_NL.tolist()) == json.dumps(again.tokens_NL.tolist())
    flops = benchmark.needed_flops_a_token(settings, 'shipped', rows)
    assert (
        2e5 < flops < 4 * 2e5 * 4
    )  # two passes of two FLOPs a weight: 0.2 M weights, less the embedding, and adapters
