"""Packages metaft as a library; programs run from a checkout with launch/local.sh and need no installation."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
TEST_ONLY = {'pytest', 'pytest-timeout', 'pytest-xdist'}
SYNTHESIZE_ONLY = {'beautifulsoup4', 'datasketch', 'markdown-it-py', 'openai', 'pypdf'}  # experiments.synthesize_qa
RAY_ONLY = {'ray'}  # experiments.collect --executor=ray; 80 MB, so not among what every set-up installs
OPTUNA_ONLY = {'optuna'}  # metaft.search.adapters.optuna
RAY_TUNE_ONLY = {'ray[tune]'}  # metaft.search.adapters.ray_tune
TENSORBOARD_ONLY = {'tensorboardX'}  # tune --tensorboard
REQUIREMENTS = [
    line.strip() for line in (ROOT / 'requirements.in').read_text().splitlines() if line.strip() and line[0] != '#'
]

setup(
    name='metaft',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'metaft' / '__init__.py').read_text())[1],
    description='Which finetuning configuration to run, what it costs, what it gives',
    python_requires='>=3.11',
    packages=find_packages(include=['metaft', 'metaft.*']),
    package_data={'metaft': ['assets/**/*', 'report/templates/*']},
    install_requires=[name for name in REQUIREMENTS if name not in TEST_ONLY | SYNTHESIZE_ONLY | TENSORBOARD_ONLY],
    extras_require={
        'test': sorted(TEST_ONLY | TENSORBOARD_ONLY),
        'synthesize': sorted(SYNTHESIZE_ONLY),
        'ray': sorted(RAY_ONLY),
        'optuna': sorted(OPTUNA_ONLY),
        'ray_tune': sorted(RAY_TUNE_ONLY),
        'tensorboard': sorted(TENSORBOARD_ONLY),
    },
)
