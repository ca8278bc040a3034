"""A chat-completions server on the loopback whose answers a test scripts."""

import contextlib
import http.server
import json
import re
import threading
import time

FACT = re.compile(r'The harbour of (\w+) opened in (\d+)')


def examples(prompt):
    """What a good model makes of a passage of `facts`."""
    return [
        {'question': f'When was the harbour of {town} opened?', 'answer': year}
        for town, year in FACT.findall(prompt.split('Passage:', 1)[1])
    ]


def good(prompt):
    return completion(json.dumps({'examples': examples(prompt)}))


def completion(content, finish='stop', refusal=None, status=200):
    message = {'role': 'assistant', 'content': content, 'refusal': refusal}
    choice = {'index': 0, 'message': message, 'finish_reason': finish, 'logprobs': None}
    body = {'id': 'c', 'object': 'chat.completion', 'created': 0, 'model': 'm', 'choices': [choice]}
    return status, json.dumps(body)


def fault(status, message='told by the server'):
    return status, json.dumps({'error': {'message': message, 'type': 'x', 'code': None}})


class Server:
    """`script(number of the request, prompt) -> (status, body)`; `requests` are the bodies that came."""

    def __init__(self, script, seconds=0.0):
        self.script, self.seconds, self.requests, self.keys = script, seconds, [], []
        self.most_in_flight = self._in_flight = 0
        self._lock = threading.Lock()

    def answer(self, body, key):
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            number = len(self.requests)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            time.sleep(self.seconds)
            return self.script(number, body['messages'][0]['content'])
        finally:
            with self._lock:
                self._in_flight -= 1


@contextlib.contextmanager
def serve(script, seconds=0.0):
    """Yields (server, base URL)."""
    server = Server(script, seconds)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['content-length'])))
            status, text = server.answer(body, self.headers.get('authorization'))
            content = text.encode()
            with contextlib.suppress(OSError):  # the client has given up waiting
                self.send_response(status)
                self.send_header('content-type', 'application/json')
                self.send_header('content-length', str(len(content)))
                self.send_header('retry-after-ms', '1')
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    listener = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    listener.daemon_threads = True
    listener.handle_error = lambda *_: None  # a client that was killed, or gave up
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f'http://127.0.0.1:{listener.server_port}/v1'
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def facts(first, num):
    """A document of `num` facts, a paragraph each; every number names another town and year."""
    paragraphs = []
    for number in range(first, first + num):
        town = ''.join(chr(ord('a') + int(digit)) for digit in f'{number:04d}').capitalize() + 'haven'
        side, kind = 'north south east west'.split()[number % 4], 'old new great small'.split()[number // 4 % 4]
        paragraphs.append(
            f'The harbour of {town} opened in {1300 + 3 * number}. It lies well {side} of the {kind} bridge of {town}, '
            'which was built later.'
        )
    return '\n\n'.join(paragraphs)
