"""Tokenizer and prompts: any text round-trips, the chat format is Phi-3's, the loss falls on answer and stop."""

import random

import numpy as np
import pytest

from metaft.errors import DataError, ModelError
from metaft.tasks import pretraining, prompts, tokenizer
from metaft.tasks.dataset import Example

TEXTS = ['', 'abc', ' abc', 'a  b\n\nc\t', 'Zoë 你好 🙂', '\x00\x7f', '2024-01-31', 'İ ﬁ ỗ', '(a) red']


@pytest.fixture(scope='module')
def made():
    return tokenizer.train_tokenizer(pretraining.tokenizer_texts(random.Random(0), 2000), 400, 512)


@pytest.fixture(scope='module')
def loaded(made, tmp_path_factory):
    directory = tmp_path_factory.mktemp('tokenizer')
    made.save_pretrained(directory)
    return tokenizer.load_tokenizer(directory)


def test_any_text_round_trips(loaded):
    generator = random.Random(0)
    noise = [''.join(chr(generator.randrange(1, 0xD800)) for _ in range(20)) for _ in range(50)]
    for text in TEXTS + noise:
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text


def test_special_tokens(made, loaded):
    ids = loaded.convert_tokens_to_ids(list(tokenizer.SPECIAL_TOKENS))
    assert len(set(ids)) == 5 and len(loaded) == 400
    assert loaded.eos_token == loaded.pad_token == '<|endoftext|>'
    for special in tokenizer.SPECIAL_TOKENS:
        assert len(loaded.encode(special, add_special_tokens=False)) == 1
    assert tokenizer.stop_ids(loaded) == (ids[3], ids[0])
    assert made.encode('What is it?') == loaded.encode('What is it?')


def test_a_missing_or_foreign_tokenizer_is_a_model_error(tmp_path, made):
    with pytest.raises(ModelError, match='has no tokenizer'):
        tokenizer.load_tokenizer(tmp_path)
    (tmp_path / 'tokenizer.json').write_text('{}')
    with pytest.raises(ModelError, match='cannot be read'):
        tokenizer.load_tokenizer(tmp_path)


def test_the_prompt_is_the_chat_up_to_the_answer(loaded):
    (ids,) = prompts.encode_prompts([Example('Who?', 'x', context='Told before.')], loaded)
    assert loaded.decode(ids) == loaded.decode(loaded.encode('<|user|>\nTold before.\nWho?<|end|>\n<|assistant|>\n'))
    assert loaded.decode(ids, skip_special_tokens=True).strip() == 'Told before.\nWho?'


def test_training_text_and_prompt_with_answer_are_the_same_tokens(loaded):
    example = Example('What is the job of Mira?', 'baker', context='Mira works.')
    encoded = prompts.encode([example], loaded, max_length=100)
    text = pretraining.chat(example.question, example.answer, example.context)
    assert encoded.tokens_NL[0].tolist() == loaded.encode(text, add_special_tokens=False)


def test_encode_masks_answer_and_stop(loaded):
    examples = [Example('Who?', text) for text in TEXTS[1:]] + [Example('Who is it that came?', 'x')]
    encoded = prompts.encode(examples, loaded, max_length=100)
    mask_NL = encoded.answer_mask()
    assert encoded.tokens_NL.dtype == np.int32 and encoded.tokens_NL.shape[1] == encoded.length_N.max()
    for row, example in enumerate(examples):
        answer = encoded.tokens_NL[row][mask_NL[row]].tolist()
        assert answer[-1] == loaded.convert_tokens_to_ids('<|end|>')
        assert loaded.decode(answer[:-1]) == example.answer
        assert (
            encoded.tokens_NL[row][: encoded.answer_start_N[row]].tolist()
            == prompts.encode_prompts([example], loaded)[0]
        )
    taken = encoded.take([1, 0])
    assert len(taken) == 2 and taken.tokens_NL.shape[1] == taken.length_N.max()
    np.testing.assert_array_equal(taken.tokens_NL[1, : taken.length_N[1]], encoded.tokens_NL[0, : taken.length_N[1]])


def test_too_long_examples_and_special_tokens_in_answers_are_named(loaded):
    examples = [Example('a?', 'b'), Example('a? ' * 50, 'b'), Example('c?', 'b <|end|> c')]
    with pytest.raises(DataError, match=r'validation.jsonl has 1 examples longer than the 64 .* row 2 \(\d+ tokens\)'):
        prompts.encode(examples, loaded, max_length=64, source='validation.jsonl')
    with pytest.raises(DataError, match=r'special token.*row 3'):
        prompts.encode(examples, loaded, max_length=512)
