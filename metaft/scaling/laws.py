"""The forms of scaling law: the loss as a sum of positive terms, in logarithms.

With D the finetuning examples, X another size (model, pretraining tokens, adapter) and E the irreducible loss, 0 in the
variants without it:

    power           A D^-beta + E                      Kaplan et al., arXiv 2001.08361
    rectified       B / (D_l + D^beta) + E             arXiv 2402.02314: D_l is what pretraining was worth already
    multiplicative  A X^-alpha D^-beta + E             arXiv 2402.17193, equation 1; beta and E shared between factors
    additive        A X^-alpha + B D^-beta + E         its rival there
    rectified_multiplicative
                    A X^-alpha / (D_l + D^beta) + E    both: a loss that falls little until there are enough examples
    all_factors     A prod_x X_x^-alpha_x D^-beta + E  the same, all factors at once

Coefficients and E are held as logarithms, so they are positive; sizes are divided by their geometric mean, so that the
constants are of order one where they are fitted. `constants` undoes both. How constants are found is `fitting`'s.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from metaft.errors import InputError
from metaft.scaling.points import Points

FORMS = ('power', 'rectified', 'multiplicative', 'additive', 'rectified_multiplicative', 'all_factors')
WITHOUT_FACTORS = FORMS[:2]
BY_SERIES = ('multiplicative', 'additive', 'rectified_multiplicative')  # an own A and alpha for every factor
_BY_FACTOR = {
    'multiplicative': ('A', 'alpha'),
    'additive': ('A', 'alpha', 'B'),
    'rectified_multiplicative': ('A', 'alpha'),
    'all_factors': ('alpha',),
}
_ALONE = {
    'power': ('A', 'beta'),
    'rectified': ('B', 'D_l', 'beta'),
    'multiplicative': ('beta',),
    'additive': ('beta',),
    'rectified_multiplicative': ('D_l', 'beta'),
    'all_factors': ('A', 'beta'),
}
LOGARITHMIC = ('A', 'B', 'D_l', 'E')  # symbols of the constants that are held as logarithms

# Where starts lie: exponents seen in both papers, shares of the smallest loss, ln D_l about the middle of the data.
_START_BETA = (0.03, 0.1, 0.3, 0.8)
_START_ALPHA = (0.0, 0.1, 0.4)
_START_E_SHARE = (0.01, 0.4, 0.8)
_START_D_L = (-4.0, 0.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Law:
    """A form, the factors it speaks of, whether it has an irreducible term. Hashable: static under `jit`."""

    form: str
    factors: tuple[str, ...] = ()
    irreducible: bool = True

    def __post_init__(self):
        if self.form not in FORMS:
            raise InputError(f'there is no law {self.form!r}; allowed are {", ".join(FORMS)}')
        if self.form in _BY_FACTOR and not self.factors:
            raise InputError(f'the {self.form} law needs a factor beside the data size')

    @property
    def symbols(self) -> tuple[tuple[str, int | None], ...]:
        """(symbol, number of its factor or None) of every constant, in the order of the vector theta_J."""
        by_factor = [(symbol, x) for symbol in _BY_FACTOR.get(self.form, ()) for x in range(len(self.factors))]
        alone = [(symbol, None) for symbol in _ALONE[self.form] + (('E',) if self.irreducible else ())]
        return (*by_factor, *alone)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constants; `alpha_model_size` where there are several factors, else `alpha`."""
        several = len(self.factors) > 1
        return tuple(f'{s}_{self.factors[x]}' if several and x is not None else s for s, x in self.symbols)


def applicable(factors: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the forms that make sense for data with these factors."""
    number = min(len(factors), 2)
    return {0: WITHOUT_FACTORS, 1: FORMS[:5], 2: FORMS}[number]


def log_loss(law: Law, theta_J, d_I, x_IX, member_IX):
    """Returns the logarithm of the loss that a law predicts.

    Args:
      law: the form.
      theta_J: its constants, centred (see the module).
      d_I: ln D, centred.
      x_IX: ln X, centred.
      member_IX: one-hot, the factor whose series a point belongs to.
    """
    c = {
        symbol: theta_J[np.array([j for j, (s, _) in enumerate(law.symbols) if s == symbol])]
        for symbol, _ in law.symbols
    }
    data_I = c['beta'] * d_I
    match law.form:
        case 'power':
            terms = [c['A'] - data_I]
        case 'rectified':
            terms = [c['B'] - jnp.logaddexp(c['D_l'], data_I)]
        case 'multiplicative':
            terms = [member_IX @ c['A'] - (member_IX * x_IX) @ c['alpha'] - data_I]
        case 'additive':
            terms = [member_IX @ c['A'] - (member_IX * x_IX) @ c['alpha'], member_IX @ c['B'] - data_I]
        case 'rectified_multiplicative':
            terms = [member_IX @ c['A'] - (member_IX * x_IX) @ c['alpha'] - jnp.logaddexp(c['D_l'], data_I)]
        case 'all_factors':
            terms = [c['A'] - x_IX @ c['alpha'] - data_I]
    if law.irreducible:
        terms.append(jnp.broadcast_to(c['E'], data_I.shape))
    return logsumexp(jnp.stack(terms), axis=0)


@dataclasses.dataclass(frozen=True)
class Centre:
    """Geometric means, as logarithms, by which sizes are divided while fitting."""

    d: float
    x_X: tuple[float, ...]

    @classmethod
    def of(cls, points: Points) -> 'Centre':
        return cls(
            float(np.mean(np.log(points.data_size_I))), tuple(np.mean(np.log(points.factors_IX), axis=0).tolist())
        )

    def inputs(self, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (d_I, x_IX, member_IX), the arguments of `log_loss`."""
        return np.log(points.data_size_I) - self.d, np.log(points.factors_IX) - np.array(self.x_X), points.member_IX


def constants(law: Law, theta_UJ: np.ndarray, centre: Centre, logarithms: bool = False) -> np.ndarray:
    """Returns the constants of the formulas above, in the units of the data, for rows of centred ones.

    With `logarithms`, coefficients and E stay logarithms: their intervals are wide, and exp overflows.
    """
    theta_UJ = np.asarray(theta_UJ, np.float64)
    column = {key: theta_UJ[:, j] for j, key in enumerate(law.symbols)}
    data_U = column[('beta', None)] * centre.d
    out = []
    for symbol, x in law.symbols:
        value_U = column[(symbol, x)]
        if symbol == 'A' and law.form in _BY_FACTOR:
            numbers = range(len(law.factors)) if x is None else [x]
            value_U = value_U + sum(column[('alpha', number)] * centre.x_X[number] for number in numbers)
        if symbol in ('B', 'D_l') or (symbol == 'A' and law.form != 'additive'):
            value_U = value_U + data_U
        with np.errstate(over='ignore'):
            out.append(np.exp(value_U) if symbol in LOGARITHMIC and not logarithms else value_U)
    return np.stack(out, axis=1)


def bounds(law: Law, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low_J, high_J) of the centred constants: wide, but finite, so that E = 0 is reached, not approached."""
    smallest, largest = np.log(points.loss_I.min()), np.log(points.loss_I.max())
    allowed = {
        'A': (-40.0, 40.0),
        'B': (-40.0, 40.0),
        'D_l': (-12.0, 30.0),
        'alpha': (-2.0, 4.0),
        'beta': (0.0 if ('D_l', None) in law.symbols else -1.0, 4.0),  # turning the sign only renames a rectified law
        'E': (smallest - 12.0, largest),
    }
    low_J, high_J = np.array([allowed[symbol] for symbol, _ in law.symbols]).T
    return low_J, high_J


def starts(law: Law, points: Points) -> np.ndarray:
    """Returns theta_UJ, a grid of starts, each of which meets the mean loss in the middle of the data."""
    mean, smallest = points.loss_I.mean(), points.loss_I.min()
    grid = itertools.product(
        _START_BETA,
        _START_ALPHA if law.form in _BY_FACTOR else (0.0,),
        _START_E_SHARE if law.irreducible else (0.0,),
        _START_D_L if ('D_l', None) in law.symbols else (0.0,),
    )
    rows = []
    for beta, alpha, share, d_l in grid:
        reducible = np.log(mean - share * smallest)
        rectified = np.log1p(np.exp(d_l)) if ('D_l', None) in law.symbols else 0.0
        raised = reducible - np.log(2) if law.form == 'additive' else reducible + rectified
        start = {
            'A': raised,
            'B': raised,
            'D_l': d_l,
            'alpha': alpha,
            'beta': beta,
            'E': np.log(share * smallest) if law.irreducible else 0.0,
        }
        rows.append([start[symbol] for symbol, _ in law.symbols])
    return np.array(rows)
