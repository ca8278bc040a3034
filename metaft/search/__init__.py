"""The search: which run to advance next, with the budget that remains.

    observations    what one search has seen so far, dense; the interface of every searcher
    acquisition     expected improvement for the remaining budget, per cost
    freeze_thaw     the searcher that asks the surrogate
    task_mixture    which run to finish next: the new task is like one of the known ones
    baselines       the searchers that do not: random, default, mean rank, portfolio, transfer only, ASHA, oracle
    units           any searcher under a budget in FLOPs or tokens
    stopping        why a search is over
    ranking         all configurations from one prediction, as a table
    portfolio       the k configurations whose best is best
    advisor         what tuners of other libraries ask; adapters.optuna, adapters.ray_tune
    replay, regret  any searcher over a recorded table, and how far from the best it ends
    scores          how good predicted curves are, whoever predicts them
    peers           other people's methods behind the same interface, for experiments.compare

It sees arrays of configurations by grid points. What a configuration is, and how it is run, is finetune's business.
"""
