"""The client of an OpenAI-compatible server, against a real server on the loopback that answers well and badly."""

import json
import re
import socket
import time

import pytest

from metaft.errors import DataError, GeneratorError, WorkdirError
from metaft.synthesis import answers, prompting
from metaft.synthesis.answers import Answer, Failure
from metaft.synthesis.endpoint import RESPONSE_FORMATS, Endpoint
from metaft.synthesis.passages import Passage
from tests.synthesis.server import completion, facts, fault, good, serve

PASSAGES = [Passage('d', 0, 1, facts(n, 1)) for n in range(12)]
REQUESTS = {f'k{n}': prompting.request(p.text, 2) for n, p in enumerate(PASSAGES)}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)


def endpoint(url, **changes):
    options = {'concurrency': 3, 'timeout_seconds': 30.0, 'max_retries': 2, 'max_new_tokens': 99, 'temperature': None}
    return Endpoint('m', url, **(options | {'response_format': 'schema'} | changes))


def ask(script, requests=REQUESTS, seconds=0.0, **changes):
    with serve(script, seconds) as (server, url):
        return dict(endpoint(url, **changes).ask(requests)), server


def test_every_request_is_answered_a_few_at_a_time(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'secret')
    found, server = ask(lambda n, prompt: good(prompt), seconds=0.05)
    assert found.keys() == REQUESTS.keys() and len(server.requests) == 12 and 2 <= server.most_in_flight <= 3
    assert all(len(prompting.parse(answer.text)) == 1 and answer.finish == 'stop' for answer in found.values())
    assert set(server.keys) == {'Bearer secret'}
    body = server.requests[0]
    assert body['response_format'] == RESPONSE_FORMATS['schema'] and body['max_tokens'] == 99
    assert body['model'] == 'm' and 'temperature' not in body


def test_options_reach_the_server_and_a_server_may_want_no_key():
    _, server = ask(lambda n, prompt: good(prompt), {'k': 'Passage:'}, temperature=0.5, response_format='text')
    assert server.requests[0]['temperature'] == 0.5 and 'response_format' not in server.requests[0]
    with pytest.raises(GeneratorError, match='OPENAI_API_KEY is not set'):
        endpoint(None)


@pytest.mark.parametrize('statuses', [[500], [429], [503, 429]])
def test_a_passing_fault_is_met_by_asking_again(statuses):
    script = lambda n, prompt: fault(statuses[n - 1]) if n <= len(statuses) else good(prompt)
    found, server = ask(script, {'k': REQUESTS['k0']})
    assert found['k'].finish == 'stop' and len(server.requests) == len(statuses) + 1


@pytest.mark.parametrize(
    'reply, finish',
    [
        (completion('{"examples": [', finish='length'), 'length'),
        (completion(None, refusal='I cannot'), 'refused'),
        (completion('', finish='content_filter'), 'refused'),
        (completion('no JSON'), 'stop'),
        (completion(None), 'stop'),
    ],
)
def test_how_an_answer_ended_is_told(reply, finish):
    found, _ = ask(lambda n, prompt: reply, {'k': 'x'})
    assert found['k'].finish == finish


@pytest.mark.parametrize(
    'reply, told',
    [
        (fault(500), 'told by the server'),
        (fault(400, 'unknown field json_schema'), 'json_schema.*--response_format=object'),
        ((200, '{"id": 1, "choi'), 'failed'),
        ((200, '{"id": "c", "choices": []}'), 'no chat completion'),
        ((200, '"ready"'), 'no chat completion'),
    ],
)
def test_what_is_no_answer_fails_alone(reply, told):
    found, _ = ask(lambda n, prompt: good(prompt) if 'Aaachaven' not in prompt else reply, max_retries=1)
    failures = {key: outcome for key, outcome in found.items() if isinstance(outcome, Failure)}
    assert failures.keys() == {'k2'}
    assert re.search(told, failures['k2'].reason)


def test_a_slow_answer_is_given_up():
    start = time.perf_counter()
    found, _ = ask(lambda n, prompt: time.sleep(3), {'k': 'x'}, timeout_seconds=0.2, max_retries=0)
    assert 'took too long' in found['k'].reason and time.perf_counter() - start < 10


@pytest.mark.parametrize(
    'status, told', [(401, 'refuses the key'), (403, 'refuses the key'), (404, 'is not there.*--generator_model')]
)
def test_what_no_request_can_get_over_ends_it_and_nothing_answered_is_lost(tmp_path, status, told):
    path = tmp_path / 'answers.jsonl'
    script = lambda n, prompt: fault(status) if n == 6 else good(prompt)
    with serve(script, 0.05) as (server, url), pytest.raises(GeneratorError, match=told):
        answers.gather(path, PASSAGES, endpoint(url), 2)
    assert len(answers.read_answers(path)) == len(server.requests) - 1 >= 5


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))  # bound and not listening: refused
        url = f'http://127.0.0.1:{taken.getsockname()[1]}/v1'
        with pytest.raises(GeneratorError, match=r'cannot be reached .*--base_url'):
            list(endpoint(url, max_retries=0).ask(REQUESTS))


def test_nothing_is_asked_twice_and_what_failed_is_asked_again(tmp_path):
    path = tmp_path / 'answers.jsonl'
    twice = [*PASSAGES, Passage('other', 5, 6, PASSAGES[0].text)]
    with serve(lambda n, prompt: fault(400) if 'Aaachaven' in prompt else good(prompt)) as (server, url):
        found, failed = answers.gather(path, twice, endpoint(url), 2)
        assert (len(found), len(failed), len(server.requests)) == (11, 1, 12)
    with open(path, 'a') as file:
        file.write('{"key": "torn')
    with serve(lambda n, prompt: good(prompt)) as (server, url):
        found, failed = answers.gather(path, twice, endpoint(url), 2)
        assert (len(found), len(failed), len(server.requests)) == (12, 0, 1)
        answers.gather(path, twice, endpoint(url), 3)  # more examples are another request
        assert len(server.requests) == 13
    assert all(isinstance(answer, Answer) for answer in answers.read_answers(path).values())


def test_a_server_that_always_fails_is_asked_no_further(tmp_path):
    with serve(lambda n, prompt: fault(400)) as (server, url):
        with pytest.raises(GeneratorError, match='8 requests in a row failed'):
            answers.gather(tmp_path / 'answers.jsonl', PASSAGES, endpoint(url), 2)
        assert len(server.requests) < 12


def test_files_of_answers_are_checked(tmp_path):
    path = tmp_path / 'answers.jsonl'
    for line in ('{"key": "a"}', '3', json.dumps({'key': 'a', 'text': 'x', 'finish': 'odd', 'seconds': 1})):
        path.write_text(line + '\n')
        with pytest.raises(DataError, match='row 1 is no answer'):
            answers.read_answers(path)
    with pytest.raises(WorkdirError, match='cannot be written'), serve(lambda n, prompt: good(prompt)) as (_, url):
        answers.gather(tmp_path / 'gone' / 'answers.jsonl', PASSAGES, endpoint(url), 2)
