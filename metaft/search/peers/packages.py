"""Imports the package of a peer when it is asked for, and says in one sentence which one is missing."""

import importlib
import logging
import warnings
from types import ModuleType

from metaft.errors import InputError


def load(*names: str) -> ModuleType:
    """Imports the modules and returns the last one; their warnings at import are theirs.

    Raises:
      InputError: one is missing, or does not import beside the other packages.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name in names:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise InputError(
                    f'the package {name!r} of a peer cannot be imported ({error}); install what requirements-peers.txt '
                    'says, or leave the method out of --methods'
                ) from error
    return module


def quiet(*names: str) -> None:
    """Lets loggers say errors only."""
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
