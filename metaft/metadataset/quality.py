"""Is a meta-dataset worth learning from? Spread against noise, rank correlations, early ranks, costs, importance.

Everything is of the final validation loss of runs to their full budget. A run *learns* where it ends below the loss of
the model before finetuning; a diverged one ends at +inf.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from metaft.finetune.search_space import LATER
from metaft.metadataset import tables

PREFIX = 'configuration.'
MIN_COMMON = 8  # configurations that a rank correlation between two tasks needs
NEAR = 0.05  # the default is near the best within this share of its loss
_LOG_SPAN = 30.0  # a positive hyperparameter that spans more than this factor counts by its logarithm


def final_runs(measurements: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a run that ended: its last measurement, `value` (+inf: diverged), `reference`, `key`, `learns`.

    `key` names the configuration, whatever the seed. A younger field that says what older records mean by leaving it
    out is left out here too.
    """
    ended = measurements[measurements['status'] != 'running'].sort_values('budget_steps')
    runs = ended.drop_duplicates(['task', 'run_id'], keep='last').reset_index(drop=True)
    younger = {PREFIX + name: value for name, value in LATER.items() if PREFIX + name in runs}
    runs = runs.assign(**{name: runs[name].mask(runs[name] == value) for name, value in younger.items()})
    reference = tasks.set_index('task')['reference_loss']
    value = runs['validation_loss'].astype(float).where(runs['status'] == 'finished', np.inf).fillna(np.inf)
    columns = [name for name in runs if name.startswith(PREFIX)]
    key = runs[columns].astype('string').fillna('-').agg('|'.join, axis=1)
    runs = runs.assign(value=value, reference=runs['task'].map(reference).astype(float), key=key)
    return runs.assign(learns=runs['value'] < runs['reference'])


def per_task(runs: pd.DataFrame, default_key: str | None) -> pd.DataFrame:
    """Returns a row a task: best, median and default loss, seed noise, and the gaps in units of the noise.

    The noise is the standard deviation between seeds of one configuration, pooled over the configurations that were
    repeated and learned each time; NaN where there is none.

    Args:
      runs: of `final_runs`.
      default_key: the default configuration's `key`.
    """
    rows = []
    for task, group in runs.groupby('task', sort=True):
        finite = group[np.isfinite(group['value'])]
        default = group[group['key'] == default_key]['value']
        best = finite['value'].min()
        row = {
            'task': task,
            'runs': len(group),
            'diverged': float(np.mean(~np.isfinite(group['value']))),
            'learning': float(group['learns'].mean()),
            'reference': group['reference'].iloc[0],
            'best': best,
            'median': group['value'].median(),
            'default': default.mean() if len(default) else np.nan,
            'noise': _seed_noise(group[group['learns']]),
            'best_exact_match': finite['validation_exact_match'].astype(float).max(),
        }
        row['median_gap_in_noise'] = (row['median'] - best) / row['noise']
        row['default_gap_in_noise'] = (row['default'] - best) / row['noise']
        row['default_near_best'] = row['default'] <= (1 + NEAR) * best if len(default) else np.nan
        rows.append(row)
    return pd.DataFrame(rows).set_index('task')


def _seed_noise(runs: pd.DataFrame) -> float:
    """Returns sqrt(sum of squared deviations from each configuration's mean / degrees of freedom)."""
    groups = [group.to_numpy() for _, group in runs.groupby('key')['value'] if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    return float(np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / freedom)) if freedom else np.nan


def correlations(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a pair of tasks: Spearman's correlation of their configurations' final values.

    `all` is over the configurations that ran on both, `learning` over those of them that learn on both; NaN where there
    are fewer than MIN_COMMON, or all are equal.
    """
    values = runs.pivot_table(index='key', columns='task', values='value', aggfunc='mean')  # inf stays inf
    learns = runs.pivot_table(index='key', columns='task', values='learns', aggfunc='min').fillna(False).astype(bool)
    rows = []
    for a, b in itertools.combinations(values.columns, 2):
        both = values[[a, b]].notna().all(axis=1)
        learning = both & learns[a] & learns[b]
        row = {'a': a, 'b': b, 'num_learning': int(learning.sum())}
        rows.append(row | {
            'all': spearman(values[a][both], values[b][both]),
            'learning': spearman(values[a][learning], values[b][learning]),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=['a', 'b', 'num_learning', 'all', 'learning'])


def spearman(a: Sequence[float] | pd.Series, b: Sequence[float] | pd.Series) -> float:
    """Returns the rank correlation; NaN for fewer than MIN_COMMON pairs or where one side has a single value."""
    ranks = [stats.rankdata(np.asarray(side, np.float64)) for side in (a, b)]  # +inf ranks last
    if len(ranks[0]) < MIN_COMMON or any(np.ptp(rank) == 0 for rank in ranks):
        return np.nan
    return float(np.corrcoef(*ranks)[0, 1])


def kind_of(task: str) -> str:
    """Returns a task's kind, the first word of its dataset's name."""
    return task.partition('@')[0].partition('_')[0]


def by_relation(pairs: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Returns the correlation among learning configurations by what two tasks share: quartiles and number of pairs."""
    facts = tasks.set_index('task')
    size = facts.get('meta_features.log_num_train_examples', pd.Series(np.nan, facts.index)).astype(float)
    ratio = np.exp(np.abs(pairs['a'].map(size).astype(float) - pairs['b'].map(size).astype(float)))
    same_kind = pairs['a'].map(kind_of) == pairs['b'].map(kind_of)
    same_base = pairs['a'].map(facts['base_model']) == pairs['b'].map(facts['base_model'])
    same_dataset = pairs['a'].map(facts['dataset']) == pairs['b'].map(facts['dataset'])
    relations = {
        'all pairs': np.ones(len(pairs), bool),
        'same kind': same_kind,
        'different kinds': ~same_kind,
        'training sizes within a factor of 4': ratio <= 4,
        'training sizes more than a factor of 16 apart': ratio > 16,
        'same base model': same_base,
        'different base models': ~same_base,
        'same dataset, different base models': same_dataset & ~same_base,
    }
    rows = {}
    for name, chosen in relations.items():
        found = pairs['learning'][np.asarray(chosen)].dropna()
        if len(found):
            low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
            rows[name] = {'median': middle, 'lower quartile': low, 'upper quartile': high, 'pairs': len(found)}
    return pd.DataFrame.from_dict(rows, orient='index')


def early_ranks(measurements: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a task and a column a fraction: rank correlation of the value there with the final one."""
    rows = {}
    for table in tables.task_tables(measurements, tasks):
        whole = ~np.isnan(table.values_CT).any(axis=1) & (table.values_CT[:, -1] < table.reference_value)
        values_CT = table.values_CT[whole]
        rows[table.task] = [spearman(values_CT[:, t], values_CT[:, -1]) for t in range(values_CT.shape[1])]
        fractions_T = table.fractions_T
    return pd.DataFrame.from_dict(rows, orient='index', columns=fractions_T)


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a base model and method: how a run's seconds follow its FLOPs.

    `exponent` and `r2` are of log seconds over log FLOPs; `spread` is the factor between the 10 % and 90 % quantiles of
    seconds per FLOP, 1 where FLOPs say all.
    """
    rows = {}
    finished = runs[(runs['status'] == 'finished') & (runs['cost_seconds'] > 0) & (runs['cost_flops'] > 0)]
    for (base, method), group in finished.groupby(['base_model', f'{PREFIX}method']):
        x, y = (np.log(group[name].to_numpy(np.float64)) for name in ('cost_flops', 'cost_seconds'))
        if len(x) >= MIN_COMMON and np.ptp(x) > 0:
            fit = stats.linregress(x, y)
            low, high = np.quantile(y - x, [0.1, 0.9])
            rows[f'{base}, {method}'] = {
                'runs': len(x),
                'spearman': spearman(x, y),
                'exponent': fit.slope,
                'r2': fit.rvalue**2,
                'spread': float(np.exp(high - low)),
                'GFLOP/s': float(np.exp(-np.median(y - x)) / 1e9),
            }
    return pd.DataFrame.from_dict(rows, orient='index')


def importance(runs: pd.DataFrame, seed: int = 0, min_runs: int = 20) -> pd.DataFrame:
    """Returns a row a task and a column a hyperparameter: share of a random forest's skill that is lost without it.

    A forest of regression trees learns the rank of a run from its configuration; then one hyperparameter at a time is
    permuted (scikit-learn's permutation importance). Shares of a row sum to 1; `out_of_bag_r2` says how much the forest
    explains of runs it has not seen. Tasks with fewer than `min_runs` runs are left out.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = [name for name in runs if name.startswith(PREFIX) and runs[name].nunique(dropna=False) > 1]
    encoded = pd.DataFrame({name.removeprefix(PREFIX): _encode(runs[name]) for name in names}, index=runs.index)
    rows = {}
    for task, group in runs.groupby('task', sort=True):
        if len(group) >= min_runs:
            x, y = encoded.loc[group.index], stats.rankdata(group['value']) / len(group)
            forest = RandomForestRegressor(100, oob_score=True, random_state=seed).fit(x, y)
            lost = permutation_importance(forest, x, y, n_repeats=5, random_state=seed).importances_mean.clip(min=0)
            shares = dict(zip(encoded.columns, lost / max(lost.sum(), 1e-12), strict=True))
            rows[task] = shares | {'out_of_bag_r2': forest.oob_score_}
    return pd.DataFrame.from_dict(rows, orient='index')


def _encode(column: pd.Series) -> np.ndarray:
    """Returns numbers for a tree: logarithms where a range is wide, codes for words, -1 where a condition fails."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return pd.Categorical(column.astype('string')).codes.astype(np.float64)
    numbers = column.astype('Float64').to_numpy(np.float64, na_value=np.nan)
    known = numbers[~np.isnan(numbers)]
    if known.min() > 0 and known.max() > _LOG_SPAN * known.min():
        numbers = np.log(numbers)
        known = np.log(known)
    return np.where(np.isnan(numbers), known.min() - 1.0, numbers)
