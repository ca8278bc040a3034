"""A generating model behind an OpenAI-compatible server, a few requests in flight.

The `openai` client repeats a request that met 429, 5xx, a time-out or a lost connection, waiting longer each time; what
is left then is either this passage's failure or, for a key, a name or an address that is wrong, the end.
"""

import asyncio
import os
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metaft.errors import GeneratorError
from metaft.synthesis import prompting
from metaft.synthesis.answers import Answer, Failure

if TYPE_CHECKING:
    import openai

RESPONSE_FORMATS: dict[str, dict[str, Any] | None] = {
    'schema': {
        'type': 'json_schema',
        'json_schema': {'name': 'examples', 'strict': True, 'schema': prompting.SCHEMA},
    },
    'object': {'type': 'json_object'},  # for servers that know no schemas
    'text': None,  # for servers that know neither
}


class Endpoint:
    """Asks a chat-completions server.

    Args:
      model: as the server calls it.
      base_url: of the server, mostly ending in /v1; OpenAI's own if empty. The key is OPENAI_API_KEY's; a server of
        one's own may want none.
      concurrency: requests in flight.
      timeout_seconds, max_retries: of one request.
      max_new_tokens: the longest answer.
      temperature: None leaves it to the server.
      response_format: one of RESPONSE_FORMATS.

    Raises:
      GeneratorError: the `openai` package is missing, or the key.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        *,
        concurrency: int,
        timeout_seconds: float,
        max_retries: int,
        max_new_tokens: int,
        temperature: float | None,
        response_format: str,
    ):
        try:
            import openai
        except ImportError:
            raise GeneratorError(
                'the openai package is missing; install it with pip install metaft[synthesize]'
            ) from None
        key = os.environ.get('OPENAI_API_KEY')
        if not key and not base_url:
            raise GeneratorError(
                'OPENAI_API_KEY is not set; set it, or give the --base_url of a server that needs none'
            )
        self.name, self._address = model, base_url or 'https://api.openai.com/v1'
        self._concurrency = concurrency
        self._connect = lambda: openai.AsyncOpenAI(
            api_key=key or 'none', base_url=self._address, timeout=timeout_seconds, max_retries=max_retries
        )
        self._options: dict[str, Any] = {'max_tokens' if base_url else 'max_completion_tokens': max_new_tokens}
        if temperature is not None:
            self._options['temperature'] = temperature
        if RESPONSE_FORMATS[response_format]:
            self._options['response_format'] = RESPONSE_FORMATS[response_format]

    def ask(self, requests: Mapping[str, str]) -> Generator[tuple[str, Answer | Failure]]:
        """Yields outcomes as they come; after a GeneratorError those in flight are still yielded, then it is raised."""
        waiting = list(requests.items())[::-1]
        flying: dict[asyncio.Task, str] = {}
        fatal: GeneratorError | None = None
        loop, client = asyncio.new_event_loop(), self._connect()
        try:
            while flying or (waiting and fatal is None):
                while waiting and fatal is None and len(flying) < self._concurrency:
                    key, text = waiting.pop()
                    flying[loop.create_task(self._ask_one(client, text))] = key
                ended, _ = loop.run_until_complete(asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED))
                for done in ended:
                    key = flying.pop(done)
                    try:
                        outcome = done.result()
                    except GeneratorError as error:
                        fatal = error
                        continue
                    yield key, outcome
        finally:
            loop.run_until_complete(_stop(list(flying), client))  # where interrupted, nobody waits for a slow server
            loop.close()
        if fatal is not None:
            raise fatal

    async def _ask_one(self, client: 'openai.AsyncOpenAI', text: str) -> Answer | Failure:
        import openai

        start = time.perf_counter()
        place = f'model {self.name!r} at {self._address}'
        try:
            found = await client.chat.completions.create(
                model=self.name, messages=[{'role': 'user', 'content': text}], **self._options
            )
        except openai.APITimeoutError:
            return Failure(f'{place} took too long; raise --timeout_seconds or lower --concurrency')
        except openai.APIConnectionError as error:
            raise GeneratorError(
                f'{place} cannot be reached ({error.__cause__ or error}); is the server running and --base_url right?'
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise GeneratorError(
                f'{place} refuses the key ({_sentence(error)}); set OPENAI_API_KEY to one that may use it'
            ) from error
        except openai.NotFoundError as error:
            raise GeneratorError(
                f'{place} is not there ({_sentence(error)}); check --generator_model, and --base_url (it mostly ends '
                'in /v1)'
            ) from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return Failure(
                f'{place} does not take the request ({_sentence(error)}); if it knows no JSON schemas, give '
                '--response_format=object or text; if the passage is too long, a lower --passage_characters'
            )
        except (openai.APIError, ValueError) as error:  # ValueError: a body that is no JSON
            return Failure(f'{place} failed ({_sentence(error)})')
        choices = getattr(found, 'choices', None)
        if not choices or choices[0].message is None:
            return Failure(f'{place} sent no chat completion; is --base_url that of an OpenAI-compatible server?')
        message, reason = choices[0].message, choices[0].finish_reason
        refused = message.refusal or reason == 'content_filter'
        finish = 'refused' if refused else 'length' if reason == 'length' else 'stop'
        return Answer(message.refusal or message.content or '', finish, time.perf_counter() - start)


async def _stop(flying: Sequence[asyncio.Task], client: 'openai.AsyncOpenAI') -> None:
    for task in flying:
        task.cancel()
    await asyncio.gather(*flying, return_exceptions=True)
    await client.close()


def _sentence(error: Exception) -> str:
    return ' '.join(str(error).split())[:200]
