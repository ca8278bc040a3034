"""Documents to splits through a scripted server, and through the shipped Phi-3, which writes no JSON."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaft.tasks.dataset import load_dataset
from tests.synthesis.server import completion, facts, fault, good, serve

ROOT = Path(__file__).parents[2]
BASE = ROOT / 'metaft' / 'assets' / 'phi3_tiny'


@pytest.fixture
def documents(tmp_path):
    """Twelve files of five passages each."""
    directory = tmp_path / 'documents'
    directory.mkdir()
    for n in range(12):
        (directory / f'{n:02d}.md').write_text(f'# Harbours\n\n{facts(20 * n, 10)}\n')
    return directory


def flags(documents, url, workdir):
    return ['synthesize_qa', f'--documents={documents}', '--generator=openai', '--generator_model=m',
            f'--base_url={url}', f'--workdir={workdir}', '--passage_characters=300', '--max_retries=0']  # fmt: skip


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_become_splits_that_tune_reads(run_experiment, documents, tmp_path, capsys):
    workdir = tmp_path / 'work'
    with serve(lambda n, prompt: good(prompt)) as (server, url):
        run_experiment(*flags(documents, url, workdir), '--licence=CC0', '--with_context')
        asked = len(server.requests)
        files = [workdir / f'{split}.jsonl' for split in ('train', 'validation', 'test')]
        before = [file.read_bytes() for file in files]
        run_experiment(*flags(documents, url, workdir), '--licence=CC0', '--with_context')
    assert len(server.requests) == asked and [file.read_bytes() for file in files] == before  # nothing is asked twice
    dataset = load_dataset(*files)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 120
    assert len({example.id for example in dataset.train}) == len(dataset.train)
    texts = {row['name']: row['text'] for row in rows(workdir / 'documents.jsonl')}
    for file in files:
        for row in rows(file):
            assert texts[row['document']][row['start'] : row['end']] == row['context']
            assert row['answer'] in row['context']
    sides = [{row['document'] for row in rows(file)} for file in files]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    sheet = (workdir / 'datasheet.md').read_text()
    assert 'Licence: CC0' in sheet and 'split by document' in sheet and '| train | ' in sheet
    assert 'next: launch/local.sh tune --train=' in capsys.readouterr().out


def test_bad_answers_are_counted_by_reason_and_failed_ones_asked_again(run_experiment, documents, tmp_path, capsys):
    bad = {
        'Aaabhaven': completion('{"examples": [', finish='length'),
        'Aacbhaven': completion('As you wish: []'),
        'Aaebhaven': completion(None, refusal='no'),
        'Aagbhaven': completion('{"examples": []}'),
        'Aaibhaven': fault(500),
        'Abcchaven': completion(json.dumps({'examples': [
            {'question': 'When was the harbour of Rome opened?', 'answer': '1234'},
            {'question': 'When did it open according to the text?', 'answer': '1666'},
            {'question': 'Does the harbour of Abcchaven lie there?', 'answer': 'harbour of Abcchaven'},
            {'question': '', 'answer': '1666'},
        ]})),
    }  # fmt: skip
    workdir = tmp_path / 'work'
    script = lambda n, prompt: next((reply for town, reply in bad.items() if town in prompt), None) or good(prompt)
    with serve(script) as (server, url):
        run_experiment(*flags(documents, url, workdir))
        asked = len(server.requests)
    found = json.loads((workdir / 'rejects.json').read_text())
    assert found['counts'] == {
        'truncated': 1, 'malformed': 1, 'refused': 1, 'nothing': 1, 'unsupported': 1, 'not self-contained': 1,
        'leaked': 1, 'empty': 1,
    }  # fmt: skip
    assert sum(found['failed_requests'].values()) == 1 and 'asks again' in capsys.readouterr().out
    assert all(reject['end'] > reject['start'] >= 0 for reject in found['rejects'])
    with serve(lambda n, prompt: good(prompt)) as (server, url):
        run_experiment(*flags(documents, url, workdir))
        assert len(server.requests) == 1 < asked
    assert not json.loads((workdir / 'rejects.json').read_text())['failed_requests']


def test_a_killed_run_goes_on_where_it_was(run_experiment, documents, tmp_path):
    workdir = tmp_path / 'work'
    path = workdir / 'answers.jsonl'
    with serve(lambda n, prompt: good(prompt), seconds=0.2) as (server, url):
        name, *arguments = flags(documents, url, workdir)
        command = [sys.executable, '-m', f'experiments.{name}', *arguments, '--concurrency=2']
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= 4):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        before = len(path.read_text().splitlines())
        server.seconds = 0.0
        run_experiment(name, *arguments)
        total = len(rows(path))
        assert total > before >= 4
        assert total <= len(server.requests) <= total + 2  # what was in flight at the kill
    assert len({row['key'] for row in rows(path)}) == total


def test_an_interrupt_waits_for_no_answer(documents, tmp_path):
    with serve(lambda n, prompt: good(prompt), seconds=60.0) as (server, url):
        name, *arguments = flags(documents, url, tmp_path / 'work')
        command = [sys.executable, '-m', f'experiments.{name}', *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not server.requests:
            time.sleep(0.02)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
        server.seconds = 0.0
    assert process.returncode == 130 and told == 'interrupted; run the same command to go on\n'
    assert time.perf_counter() - start < 30


def test_one_document_is_split_by_passage_and_that_is_said(run_experiment, documents, tmp_path, capsys):
    with serve(lambda n, prompt: good(prompt)) as (_, url):
        run_experiment(*flags(documents / '00.md', url, tmp_path / 'work'))
    assert 'too few documents' in capsys.readouterr().out
    assert 'split by passage' in (tmp_path / 'work' / 'datasheet.md').read_text()
    assert 'context' not in rows(tmp_path / 'work' / 'train.jsonl')[0]


def test_a_server_that_refuses_ends_in_one_sentence(run_experiment, documents, tmp_path, capsys):
    with serve(lambda n, prompt: fault(401)) as (_, url), pytest.raises(SystemExit) as caught:
        run_experiment(*flags(documents, url, tmp_path / 'work'))
    assert caught.value.code == 2 and 'refuses the key' in capsys.readouterr().err


def test_a_phi3_of_our_own_is_asked_in_batches(run_experiment, tmp_path, capsys):
    document = tmp_path / 'd.txt'
    document.write_text('A harbour.\n\nA town has a harbour that is open to all the ships of the land.')
    command = ['synthesize_qa', f'--documents={document}', f'--generator={BASE}', f'--workdir={tmp_path / "work"}']
    with pytest.raises(SystemExit) as caught:
        run_experiment(*command)
    assert caught.value.code == 2 and 'lower --passage_characters or --max_new_tokens' in capsys.readouterr().err
    for _ in range(2):  # the second time from the answers kept
        with pytest.raises(SystemExit) as caught:
            run_experiment(*command, '--max_new_tokens=4')
        assert caught.value.code == 2 and 'no example passed the checks' in capsys.readouterr().err
    assert len(rows(tmp_path / 'work' / 'answers.jsonl')) == 1
    (reason,) = json.loads((tmp_path / 'work' / 'rejects.json').read_text())['counts']
    assert reason in ('truncated', 'malformed')


@pytest.mark.parametrize(
    'changes, message',
    [
        (['--documents=nowhere'], 'there is no document nowhere'),
        (['--generator_model='], 'needs --generator_model'),
        (['--passage_characters=10'], 'at least 80'),
        (['--concurrency=0'], 'must be at least 1'),
        (['--duplicate_similarity=0'], 'must be above 0'),
        (['--response_format=xml'], 'xml'),
        (['--generator=nowhere'], "'nowhere' is no directory"),
    ],
)
def test_bad_flags_are_named(run_experiment, documents, tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit) as caught:
        run_experiment(*flags(documents, 'http://127.0.0.1:9/v1', tmp_path / 'work'), *changes)
    assert caught.value.code == 2 and message in capsys.readouterr().err
