"""What a live search tells its searcher about time."""

from types import SimpleNamespace

import pytest

from metaft.finetune.methods import program
from metaft.finetune.search_space import default_configuration
from metaft.tuning.ledger import Ledger
from metaft.tuning.live import TRAIN_TO_EVALUATION_COMPILE, LiveSearch

LORA, FULL = default_configuration('lora'), default_configuration('full')


def overheads(directory, *, compiled, evaluation_compile_seconds, budget_seconds=100.0):
    """Returns the overheads that a searcher is told at the first decision, for LoRA and full tuning."""
    seen = []
    directory.mkdir(exist_ok=True)
    searcher = SimpleNamespace(suggest=lambda observations, remaining, width=1: seen.append(observations) or [])
    executor = SimpleNamespace(compile_seconds=compiled, evaluation_seconds=0.1)
    search = LiveSearch([LORA, FULL], executor, Ledger(directory, 'loss'), 0, evaluation_compile_seconds, 2.0)
    search.run(searcher, budget_seconds)
    return seen[0].overhead_seconds_C


def test_compiling_is_guessed_from_the_evaluation_until_a_program_was_compiled(tmp_path):
    guessed = overheads(tmp_path / 'a', compiled={}, evaluation_compile_seconds=2.0)
    assert guessed == pytest.approx([2.0 * TRAIN_TO_EVALUATION_COMPILE] * 2)
    known = overheads(tmp_path / 'b', compiled={program(LORA): 7.0}, evaluation_compile_seconds=2.0)
    assert known == pytest.approx([0.0, 7.0])


def test_a_guess_never_keeps_a_search_from_starting(tmp_path):
    assert overheads(tmp_path, compiled={}, evaluation_compile_seconds=60.0) == pytest.approx([50.0] * 2, rel=1e-3)
