"""experiments/scaling_findings.py on a table with known laws, from scaling_fit to the text."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

SIZES, TOKENS, EXAMPLES = (70000, 120000, 216000, 700000), (5e5, 1.5e6, 5e6, 1.4e7), (32, 64, 128, 256, 512, 1024)
CONSTANTS = {'full': (0.5, 0.1, 0.30, 9.0), 'lora': (0.3, 0.1, 0.15, 4.0)}  # alpha_m, alpha_p, beta, A


def study(path) -> None:
    random, rows = np.random.default_rng(0), []
    for method, (alpha_m, alpha_p, beta, scale) in CONSTANTS.items():
        places = [(size, TOKENS[-1]) for size in SIZES] + [(SIZES[2], tokens) for tokens in TOKENS[:-1]]
        for (size, tokens), seed in itertools.product(places, range(3)):
            base = {'group': f'summary/{method}', 'task': 'summary', 'method': method, 'model_size': size,
                    'pretraining_tokens': tokens, 'adapter_size': 1 if method == 'full' else 8}  # fmt: skip
            if seed == 0:
                rows.append(base | {'data_size': 0, 'loss': 5.0, 'known_loss': 0.5})
            for examples in EXAMPLES:
                loss = scale * (size / SIZES[2]) ** -alpha_m * (tokens / TOKENS[-1]) ** -alpha_p * examples**-beta + 0.1
                run = base | {'data_size': examples, 'seed': seed, 'learning_rate': 0.01, 'known_loss': 1.5}
                rows.append(run | {'loss': loss * np.exp(0.01 * random.standard_normal())})
                if tokens == TOKENS[-1]:  # at the largest size, a rate of its own takes a fifth off the loss
                    own = {'group': f'summary/{method}/each_size', 'learning_rate': 0.01 if size < SIZES[-1] else 0.003}
                    rows.append(rows[-1] | own | ({'loss': 0.8 * rows[-1]['loss']} if size == SIZES[-1] else {}))
    pd.DataFrame(rows).to_csv(path, index=False)


def test_known_laws_are_found(tmp_path, run_experiment, capsys):
    fitted = tmp_path
    study(fitted / 'study.csv')
    factors = '--factor_columns=model_size,pretraining_tokens,adapter_size'
    table = [f'--table={fitted / "study.csv"}', '--group_column=group', factors, '--unshared_factors=adapter_size']
    run_experiment(
        'scaling_fit', *table, f'--workdir={fitted / "laws"}', '--num_draws=40', '--forms=multiplicative,additive'
    )
    run = ['scaling_findings', f'--table={fitted / "study.csv"}', f'--fit={fitted / "laws"}']
    run_experiment(*run, f'--workdir={fitted / "findings"}')
    found = json.loads((fitted / 'findings' / 'findings.json').read_text())
    for method, (alpha_m, alpha_p, beta, _) in CONSTANTS.items():
        group = f'summary/{method}'
        for name, true in (('model_size', alpha_m), ('pretraining_tokens', alpha_p)):
            assert found['alpha'][name][group]['value'] == pytest.approx(true, abs=0.05)
        assert found['beta'][group]['value'] == pytest.approx(beta, abs=0.05)
        assert found['alpha_model_less_pretraining'][group]['low'] > 0
    assert found['beta_differences']['summary']['full - lora']['low'] > 0
    assert found['forms']['multiplicative / additive']['aicc']['better'] == 2
    winners = {
        (w['sizes']['model_size'], w['sizes']['data_size']): w['best']
        for w in found['winners']['summary, by model_size']
    }
    assert winners[SIZES[2], 1024] == 'full' and winners[SIZES[2], 32] == 'lora'
    crossing = found['crossings']['summary, by model_size']['full and lora'][f'{float(SIZES[2])}']
    assert crossing['data_size'] == pytest.approx((9 / 4) ** (1 / 0.15), rel=0.3)
    assert found['others']['known_loss'] and 'beta of full - lora' in capsys.readouterr().out
    own = found['each_size']['summary/full/each_size']
    assert own['learning_rate'][f'{float(SIZES[-1])}'] == 0.003 and own['one_size_learning_rate'] == 0.01
    assert own['log_ratio'][f'{float(SIZES[-1])}']['value'] == pytest.approx(np.log(0.8))
    assert own['log_ratio'][f'{float(SIZES[0])}']['value'] == 0.0
    assert own['alpha_model_size']['value'] > own['one_size_alpha_model_size']['value'] + 0.02
    assert 'summary, by model_size, with a rate of each size' in found['winners']
    text = (fitted / 'findings' / 'findings.md').read_text()
    assert '| summary/full/each_size | 0.01 | the same | the same | the same | 0.003: 0.8 [0.8, 0.8] |' in text
    assert '| summary | full | 32 | 1 [1, 1] |' in text and 'multiplicative is lower in 2 of 2 groups' in text
    assert (fitted / 'findings' / 'methods.png').stat().st_size > 10_000

    pd.DataFrame({'loss': [1.0]}).to_csv(tmp_path / 'other.csv', index=False)
    with pytest.raises(SystemExit):
        run_experiment('scaling_findings', f'--table={tmp_path / "other.csv"}', f'--fit={fitted / "laws"}')
    assert 'has no column group, task, method' in capsys.readouterr().err
    table = pd.read_csv(fitted / 'study.csv')
    table[table['method'] == 'full'].to_csv(tmp_path / 'part.csv', index=False)
    with pytest.raises(SystemExit):
        run_experiment('scaling_findings', f'--table={tmp_path / "part.csv"}', f'--fit={fitted / "laws"}')
    assert 'has laws of summary/lora' in capsys.readouterr().err
