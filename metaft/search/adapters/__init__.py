"""The transferred ranking and the surrogate's predictions for users of other tuners; each module needs its library.

optuna     a sampler and a pruner for Optuna (extra `optuna`)
ray_tune   a searcher and a scheduler for Ray Tune (extra `ray_tune`)
"""
