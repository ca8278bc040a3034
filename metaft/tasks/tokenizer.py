"""Byte-level byte-pair tokenizers with Phi-3's special tokens and chat format, as Hugging Face files.

Every text segment gets one space in front, as in Phi-3's own tokenizer, and decoding takes it off again: a word has the
same token at the start of an answer and inside of a sentence, and any text comes back as it was.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from metaft.errors import ModelError

END_OF_TEXT, ASSISTANT, SYSTEM, END, USER = '<|endoftext|>', '<|assistant|>', '<|system|>', '<|end|>', '<|user|>'
SPECIAL_TOKENS = (END_OF_TEXT, ASSISTANT, SYSTEM, END, USER)  # in the order of Phi-3's ids
_SPECIAL = re.compile(r'<\|(?:endoftext|assistant|system|end|user)\|>\n?')
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

Tokenizer: TypeAlias = transformers.PreTrainedTokenizerBase


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, max_length: int) -> Tokenizer:
    """Trains a byte-level byte-pair tokenizer on `texts`.

    Args:
      texts: plain text or chats; the text between their special tokens is learned from.
      vocabulary_size: ids in all: 5 special tokens, 256 bytes, the rest merges; at least 261.
      max_length: the window of the model it is for, in tokens.

    Returns:
      a tokenizer that encodes any text, with `<|endoftext|>` as end and padding token, padding on the left as Phi-3's.
    """
    core = tokenizers.Tokenizer(models.BPE())
    core.normalizer = normalizers.Prepend(' ')
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(' ', 1, 0)])
    # As in Phi-3, a special token swallows the line break after it.
    special = [
        tokenizers.AddedToken(t, special=True, normalized=False, rstrip=t != END_OF_TEXT) for t in SPECIAL_TOKENS
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((part for text in texts for part in _SPECIAL.split(text) if part), trainer)
    core.add_special_tokens(special)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side='left',
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Loads the tokenizer of a local model directory.

    Raises:
      ModelError: the directory has no tokenizer, or one without Phi-3's `<|end|>` and chat template.
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in ('tokenizer.json', 'tokenizer.model')):
        raise ModelError(f'{directory} has no tokenizer.json: give a Hugging Face model directory with its tokenizer')
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ModelError(f'the tokenizer in {directory} cannot be read ({reason}): save the model again') from error
    if tokenizer.chat_template is None or END not in tokenizer.get_vocab():
        raise ModelError(f'the tokenizer in {directory} lacks a chat template or {END}: give a Phi-3 instruct model')
    return tokenizer


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids at which decoding stops: `<|end|>`, which is trained, and the end-of-text token."""
    return (end_id(tokenizer), int(tokenizer.eos_token_id))  # type: ignore[arg-type]


def end_id(tokenizer: Tokenizer) -> int:
    """Returns the id of `<|end|>`, which closes an answer."""
    return int(tokenizer.convert_tokens_to_ids(END))  # type: ignore[arg-type]
