"""The language model: configuration, Flax NNX modules, Hugging Face weights in and out, decoding."""

from metaft.phi3.config import LongRope, Phi3Config
from metaft.phi3.decoding import generate
from metaft.phi3.model import Phi3
from metaft.phi3.presets import PRESETS, count_parameters
from metaft.phi3.weights import load_config, load_pretrained, save_pretrained, stored_dtype

__all__ = [
    'PRESETS',
    'LongRope',
    'Phi3',
    'Phi3Config',
    'count_parameters',
    'generate',
    'load_config',
    'load_pretrained',
    'save_pretrained',
    'stored_dtype',
]
