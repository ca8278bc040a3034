"""The latent Kronecker GP of BoTorch: one exact GP over (configuration, log budget), by its own fit and samples.

Prediction only: a fit takes seconds to minutes, and is not stable on few points, so a search with it is out of reach.
Inputs are scaled to [0, 1]; values are those of the surrogate's space. Where its fit fails or ends in a covariance that
is not positive definite, as happens on few points, the prediction is mean and spread of what was observed.

Reference: Lin et al. 2024, arXiv 2410.09239.
"""

import warnings

import numpy as np

from metaft.metadataset.tables import TaskTable
from metaft.search.peers import packages
from metaft.search.peers.gaussian import transform, transformed
from metaft.surrogate.encoding import Encoding
from metaft.surrogate.prediction import Prediction

_SAMPLES = 64
_PRIOR_SD = 0.5  # in the surrogate's space, where there is nothing to fit to
_FEWEST = 3  # points


def predict(table: TaskTable, encoding: Encoding, seed: int, values_CT: np.ndarray, costs_CT: np.ndarray) -> Prediction:
    """Fits to what was observed of a task and predicts all of it.

    Rows without an observation are asked about and not fitted to.
    """
    y_CT = transform(table, values_CT)
    seen_C = ~np.isnan(y_CT).all(axis=1)
    if np.sum(~np.isnan(y_CT)) < _FEWEST:
        level = float(np.nanmean(y_CT)) if seen_C.any() else 0.0
        flat_CT = np.full(y_CT.shape, level)
        return transformed(table, flat_CT, np.full(y_CT.shape, _PRIOR_SD), values_CT, costs_CT)
    mean, sd = float(np.nanmean(y_CT)), float(np.nanstd(y_CT)) + 1e-6
    x_CE = encoding.configurations(table.configurations)
    log_T = np.log(table.fractions_T / table.fractions_T[0])
    varies_E = np.ptp(x_CE, axis=0) > 0
    mean_CT, sd_CT = _posterior(x_CE[:, varies_E], log_T / log_T[-1], (y_CT - mean) / sd, seen_C, seed)
    return transformed(table, mean + sd * mean_CT, sd * sd_CT, values_CT, costs_CT)


def _posterior(
    x_CE: np.ndarray, time_T: np.ndarray, y_CT: np.ndarray, seen_C: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of the samples, noise included."""
    torch = packages.load('torch')
    models = packages.load('botorch.models.latent_kronecker_gp')
    fit = packages.load('botorch.fit')
    mlls = packages.load('gpytorch.mlls')
    torch.set_num_threads(1)  # its matrices are small: threads spend longer on each other
    torch.manual_seed(seed)
    tensor = lambda array: torch.tensor(np.asarray(array), dtype=torch.float64)
    x_CE = 0.5 + 0.5 * x_CE.astype(np.float64)
    failures = (
        packages.load('linear_operator.utils.errors').NotPSDError,
        packages.load('botorch.exceptions.errors').ModelFittingError,
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of its solvers' tolerances
        model = models.LatentKroneckerGP(
            tensor(x_CE[seen_C]), tensor(time_T[:, None]), tensor(y_CT[seen_C]), outcome_transform=None
        )
        mll = mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        with model.use_iterative_methods():
            try:
                fit.fit_gpytorch_mll(mll)
                posterior = model.posterior(tensor(x_CE), tensor(time_T[:, None]))
                sample = posterior.rsample(torch.Size([_SAMPLES])).detach().numpy()
            except failures:  # its fit ran off, or never came to an end: the prior is all there is
                return np.zeros(y_CT.shape), np.ones(y_CT.shape)
            sample_SCT = sample.reshape(_SAMPLES, *y_CT.shape)
        noise = float(model.likelihood.noise.detach().mean())
    return sample_SCT.mean(axis=0), np.sqrt(sample_SCT.var(axis=0) + noise)
