"""Errors that the person at the terminal can mend.

Each message is one sentence: what was found, what is allowed, what to do. `experiments.program` prints it and exits
with code 2. Anything else that is raised is a defect of metaft and keeps its traceback.
"""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message says what, and what to do."""


class DataError(InputError):
    """A data file, a row of it, or a split."""


class ModelError(InputError):
    """A model or adapter directory, its configuration or its tensors."""


class ConfigurationError(InputError):
    """A hyperparameter configuration or a restriction of the search space."""


class WorkdirError(InputError):
    """A working directory that cannot be written, or that belongs to another job."""


class BudgetError(InputError):
    """A budget that buys nothing."""


class GeneratorError(InputError):
    """A generating model that cannot be reached, refuses its user, or cannot take the requests."""


class ExecutorError(InputError):
    """A cluster that is not there, or that loses its workers."""
