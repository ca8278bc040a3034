"""The language model: configuration, Flax NNX modules, Hugging Face weights in and out, decoding."""

from metaft.phi3.config import LongRope, Phi3Config
from metaft.phi3.model import Phi3

__all__ = ['LongRope', 'Phi3', 'Phi3Config']
