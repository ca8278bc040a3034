"""experiments/generate.py over the shipped base, with no adapter, a LoRA and a soft prompt, and on bad input."""

import io
import json

import jax
import jax.numpy as jnp
import pytest

from experiments import generate
from metaft.adapters import dora, lora, peft, prompt
from metaft.phi3 import load_pretrained
from metaft.phi3.quantized import is_quantized

ROWS = [
    {'id': 'a', 'question': 'What colour does the harbour have?', 'answer': 'blue'},
    {'question': 'Who reads?', 'context': 'Ann reads.', 'extra': 7},
    {'question': 'Where?'},
]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / 'questions.jsonl'
    path.write_text('\n'.join(map(json.dumps, ROWS)) + '\n')
    return path


@pytest.fixture(scope='module')
def base():
    return load_pretrained(generate.ASSETS / 'phi3_tiny')


def answers(run_experiment, questions, *argv):
    output = questions.with_name('answers.jsonl')
    run_experiment('generate', f'--questions={questions}', f'--output={output}', '--max_new_tokens=8', *argv)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_question_gets_an_answer_beside_its_own_fields(run_experiment, questions, capsys):
    found = answers(run_experiment, questions, '--batch_size=2')
    assert [{k: v for k, v in row.items() if k != 'generated'} for row in found] == ROWS
    assert all(row['generated'] and '<|' not in row['generated'] for row in found)
    right = int(found[0]['generated'] == 'blue')
    told = capsys.readouterr().err
    assert f'exact match: {right} of 1' in told
    assert all(name in told for name in ('token F1', 'ROUGE-L', 'BLEU', 'chrF'))
    run_experiment('generate', f'--questions={questions}', '--max_new_tokens=8')
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == found  # batches do not matter


def test_an_adapter_that_does_nothing_changes_nothing_and_one_that_does_something_does(
    run_experiment, questions, base, tmp_path
):
    plain = answers(run_experiment, questions)
    adapter = lora.init(base, jax.random.key(0), lora.rank_mask(4, 4))
    options = {'rank': 4, 'alpha': 8.0, 'dropout': 0.1, 'targets': 'all', 'base_model': 'phi3_tiny'}
    peft.save_lora(tmp_path / 'adapter', adapter, **options)
    assert answers(run_experiment, questions, f'--adapter={tmp_path / "adapter"}') == plain
    strong = jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0.5, leaf), adapter)
    peft.save_lora(tmp_path / 'adapter', strong, **options)
    changed = answers(run_experiment, questions, f'--adapter={tmp_path / "adapter"}')
    assert changed != plain
    norms = dora.init(base, jax.random.key(0), lora.rank_mask(4, 4))
    magnitudes = {path: member | {'magnitude': norms[path]['magnitude']} for path, member in strong.items()}
    peft.save_lora(tmp_path / 'adapter', magnitudes, **options)
    assert answers(run_experiment, questions, f'--adapter={tmp_path / "adapter"}') not in (plain, changed)


def test_the_base_is_loaded_as_asked_for(run_experiment, questions, monkeypatch, base, tmp_path):
    adapter = lora.init(base, jax.random.key(0), lora.rank_mask(4, 4))
    options = {'rank': 4, 'alpha': 8.0, 'dropout': 0.1, 'targets': 'all', 'base_model': 'phi3_tiny'}
    peft.save_lora(tmp_path / 'adapter', adapter, **options)
    loaded = []

    def load(*args, **options):
        model = load_pretrained(*args, **options)
        loaded.append((model.embed_tokens[...].dtype.name, is_quantized(model)))
        return model

    monkeypatch.setattr('metaft.phi3.load_pretrained', load)
    for flags in ((), ('--dtype=bfloat16',), ('--quantize=int8', f'--adapter={tmp_path / "adapter"}')):
        assert all(row['generated'] for row in answers(run_experiment, questions, *flags))
    assert loaded == [('float32', False), ('bfloat16', False), ('float32', True)]


def test_a_soft_prompt_is_put_in_front(run_experiment, questions, base, tmp_path):
    vectors = prompt.init(base, jax.random.key(0), max_length=4)
    peft.save_prompt(tmp_path / 'adapter', vectors, length=4, base_model='phi3_tiny')
    assert len(answers(run_experiment, questions, f'--adapter={tmp_path / "adapter"}')) == len(ROWS)


def test_sampling_is_by_seed(run_experiment, questions):
    draw = lambda seed: answers(run_experiment, questions, '--temperature=3', f'--seed={seed}')
    assert draw(1) == draw(1) != draw(2)


def test_questions_may_be_typed(run_experiment, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.StringIO('Where?\nWhat colour?\n\nNever asked?\n'))
    run_experiment('generate', '--max_new_tokens=8')
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is empty'),
        ('{"question": "a"}\n{"question": 3}\n', 'row 2 is no object with a question'),
        ('{"question": "a"}\n\n{"question": \n', 'row 3 is broken JSON'),
        ('["question"]\n', 'row 1 is no object'),
        ('{"question": "a", "context": 1}\n', 'row 1'),
        (json.dumps({'question': 'why ' * 600}) + '\n', 'question 1 of'),
    ],
)
def test_bad_questions_are_named(run_experiment, questions, capsys, text, message):
    questions.write_text(text)
    with pytest.raises(SystemExit) as caught:
        run_experiment('generate', f'--questions={questions}')
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--max_new_tokens=0'], 'must be at least 1'),
        (['--temperature=-1'], '--temperature is -1'),
        (['--output=x'], '--output needs --questions'),
        (['--questions=nowhere.jsonl'], 'nowhere.jsonl cannot be read'),
        (['--model=nowhere'], "'nowhere'"),
        (['--adapter=nowhere'], 'no adapter directory'),
    ],
)
def test_bad_flags_are_named(run_experiment, capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        run_experiment('generate', *flags)
    assert caught.value.code == 2 and message in capsys.readouterr().err
