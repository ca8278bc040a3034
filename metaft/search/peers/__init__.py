"""Other people's methods behind the one interface of `observations.Searcher`, for comparison.

methods      all of them by the names of the comparison, and what each needs
gaussian     predictions of the peers that model curves;  improvement: the search on such a prediction
space        configurations as points, for packages that search a continuous space
packages     imports a peer's package, or says which one is missing;  ask_tell: drives one

A file a peer: last_value, covariance_gp, dpl, dyhpo, quicktune, dre are our own implementations, each with its paper;
asha, optuna_tpe, smac_hyperband, dehb_evolution, quicktune_shipped, lkgp, ifbo call the packages.
"""
