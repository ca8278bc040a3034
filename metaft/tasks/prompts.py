"""From examples to token arrays: the tokenizer's chat format, answers closed by `<|end|>`.

Decoding needs the prompt alone (`encode_prompts`), training the prompt and the answer (`encode`). Batching, bucketing
and the loss are `metaft.finetune`'s.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from metaft.errors import DataError
from metaft.tasks.dataset import Example
from metaft.tasks.tokenizer import Tokenizer, end_id


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """N examples as token ids, padded on the right to the longest one.

    The loss is on the tokens [answer_start, length): the answer and `<|end|>`. Padding is known by length, never by id.
    """

    tokens_NL: np.ndarray
    answer_start_N: np.ndarray
    length_N: np.ndarray

    def __len__(self) -> int:
        return len(self.length_N)

    def take(self, rows: Sequence[int] | np.ndarray) -> 'EncodedExamples':
        """Returns the given rows, cut to the longest of them."""
        length_N = self.length_N[rows]
        return EncodedExamples(self.tokens_NL[rows, : length_N.max()], self.answer_start_N[rows], length_N)

    def answer_mask(self) -> np.ndarray:
        """Returns bool [N, L], True on answer and stop tokens."""
        at_L = np.arange(self.tokens_NL.shape[1])[None, :]
        return (at_L >= self.answer_start_N[:, None]) & (at_L < self.length_N[:, None])


def user_text(example: Example) -> str:
    """Returns what stands in the user's turn: the context, if there is one, and below it the question."""
    return f'{example.context}\n{example.question}' if example.context else example.question


def encode_prompts(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """Returns each example's ids up to where the answer begins."""
    chats = [[{'role': 'user', 'content': user_text(example)}] for example in examples]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)['input_ids']


def encode_answers(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """Returns each answer's ids, tokenized on its own and closed by `<|end|>`."""
    answers = [example.answer for example in examples]
    encoded = tokenizer(answers, add_special_tokens=False, return_attention_mask=False)['input_ids']
    return [[*ids, end_id(tokenizer)] for ids in encoded]


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, *, max_length: int, source: str = 'train'
) -> EncodedExamples:
    """Encodes prompts and answers.

    Args:
      examples: one at least.
      tokenizer: with a chat template and `<|end|>`.
      max_length: the most tokens that an example may have, the model's window.
      source: what the examples are called in an error, a file or a split.

    Returns:
      the examples in their order, int32, padded to the longest with the padding id.

    Raises:
      DataError: examples are longer than `max_length`, or an answer holds a special token of the chat format.
    """
    prompts, answers = encode_prompts(examples, tokenizer), encode_answers(examples, tokenizer)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    _refuse(
        [(row, f'{n} tokens') for row, n in enumerate(lengths, start=1) if n > max_length],
        f'longer than the {max_length} tokens that the model reads; shorten them or take them out',
        source,
    )
    special = set(tokenizer.all_special_ids) | {end_id(tokenizer)}
    _refuse(
        [(row, 'answer') for row, answer in enumerate(answers, start=1) if special & set(answer[:-1])],
        'holding a special token of the chat format inside of the answer; take it out of the text',
        source,
    )
    tokens_NL = np.full((len(examples), max(lengths)), tokenizer.pad_token_id, np.int32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens_NL[row, : lengths[row]] = [*prompt, *answer]
    answer_start_N = np.array([len(prompt) for prompt in prompts], np.int32)
    return EncodedExamples(tokens_NL, answer_start_N, np.array(lengths, np.int32))


def _refuse(rows: list[tuple[int, str]], reason: str, source: str) -> None:
    if rows:
        shown = ', '.join(f'row {row} ({what})' for row, what in rows[:5]) + (', ...' if len(rows) > 5 else '')
        raise DataError(f'{source} has {len(rows)} examples {reason}: {shown}')
