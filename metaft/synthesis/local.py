"""A generating Phi-3 of our own: batches of requests through `metaft.phi3.decoding`."""

import time
from collections.abc import Generator, Mapping
from pathlib import Path

import jax

from metaft.errors import GeneratorError
from metaft.phi3 import generate, load_pretrained
from metaft.synthesis.answers import Answer, Failure
from metaft.tasks.dataset import Example
from metaft.tasks.prompts import encode_prompts
from metaft.tasks.tokenizer import load_tokenizer, stop_ids


class LocalModel:
    """Asks a Phi-3 directory.

    Args:
      directory: of an instruct model, with its tokenizer.
      batch_size: requests decoded together.
      max_new_tokens: the longest answer.
      temperature: None or 0 takes the most probable token.
      seed: of drawn tokens.
    """

    def __init__(self, directory: Path, *, batch_size: int, max_new_tokens: int, temperature: float | None, seed: int):
        self.name = directory.name
        self._tokenizer, self._model = load_tokenizer(directory), load_pretrained(directory)
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._temperature, self._seed = temperature or 0.0, seed

    def ask(self, requests: Mapping[str, str]) -> Generator[tuple[str, Answer | Failure]]:
        """Yields the answers batch by batch.

        Raises:
          GeneratorError: a request and its answer do not fit into the model's window.
        """
        if not requests:
            return
        keys = list(requests)
        prompts = encode_prompts([Example(text, '') for text in requests.values()], self._tokenizer)
        room = self._model.config.max_position_embeddings - self._max_new_tokens
        longest = max(map(len, prompts))
        if longest > room:
            raise GeneratorError(
                f'the longest request has {longest} tokens, with --max_new_tokens={self._max_new_tokens} at most '
                f'{max(room, 0)} fit into {self.name}; lower --passage_characters or --max_new_tokens'
            )
        stops = stop_ids(self._tokenizer)
        for first in range(0, len(keys), self._batch_size):
            rows = slice(first, first + self._batch_size)
            start = time.perf_counter()
            key = jax.random.fold_in(jax.random.key(self._seed), first)
            tokens = generate(
                self._model,
                prompts[rows],
                max_new_tokens=self._max_new_tokens,
                stop_ids=stops,
                temperature=self._temperature,
                key=key if self._temperature > 0 else None,
            )
            seconds = (time.perf_counter() - start) / len(tokens)
            texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for name, new, text in zip(keys[rows], tokens, texts, strict=True):
                yield name, Answer(text.strip(), 'stop' if new[-1] in stops else 'length', seconds)
