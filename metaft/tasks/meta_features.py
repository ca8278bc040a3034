"""Meta-features: what a surrogate is told of a task before any run of it.

Scalars from the data (free) and from one look of the base model at 64 training examples at most. Each has a name, a
definition and a unit in DATA_FEATURES or MODEL_FEATURES; all that are given are finite for any dataset and model. Loss
means nats per answer-and-stop token. Counts enter as logarithms, so that a difference is a ratio.
"""

import collections
import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metaft.phi3 import Phi3
from metaft.tasks.dataset import Dataset, Example
from metaft.tasks.language import MONTHS
from metaft.tasks.prompts import EncodedExamples

MAX_EXAMPLES = 64  # what the model looks at
_GROUP = 8  # examples a forward pass
_MIN_TIMINGS = 5
_TIMING_SECONDS = 0.2  # repeat a fast forward pass for so long: other work on the machine disturbs a single one

DATA_FEATURES = {
    'log_num_train_examples': ('training examples', 'ln examples'),
    'log_num_validation_examples': ('validation examples', 'ln examples'),
    'log_num_distinct_questions': ('distinct pairs of context and question in training', 'ln questions'),
    'log_num_distinct_answers': ('distinct training answers', 'ln answers'),
    'log_examples_per_answer': ('training examples a distinct answer', 'ln examples'),
    'answer_entropy': ('entropy of the training answers', 'nats'),
    'duplicate_rate': ('training examples whose context and question stood before', 'share'),
    'contradiction_rate': ('training examples whose duplicate has another answer', 'share'),
    'log_mean_prompt_tokens': ('mean tokens before the answer, chat format included', 'ln tokens'),
    'log_max_tokens': ('tokens of the longest training example', 'ln tokens'),
    'log_mean_answer_tokens': ('mean answer tokens, stop included', 'ln tokens'),
    'answer_tokens_spread': ('standard deviation of answer tokens over their mean', 'ratio'),
    'log_vocabulary': ('distinct tokens in the training examples', 'ln tokens'),
    'log_question_words': ('distinct words in the training questions', 'ln words'),
    'unseen_word_rate': ('words of validation questions that no training question has', 'share'),
    'number_answers': ('training answers that are a number', 'share'),
    'yes_no_answers': ('training answers that are yes, no, true or false', 'share'),
    'letter_answers': ('training answers of a single letter, as in multiple choice', 'share'),
    'date_answers': ('training answers with a month and a number, or like 2024-01-31', 'share'),
    'sentence_answers': ('training answers of three words or more that end in a full stop', 'share'),
    'context_rate': ('training examples with a context', 'share'),
    'answer_in_context_rate': ('training examples whose answer stands in their context or question', 'share'),
    'unseen_answer_rate': ('validation answers that no training example has', 'share'),
}
MODEL_FEATURES = {
    'log_num_parameters': ('parameters of the base model', 'ln parameters'),
    'log_pretraining_tokens': ('tokens the base model was pretrained on; left out where unknown', 'ln tokens'),
    'zero_shot_loss': ('loss before any finetuning, averaged over tokens', 'nats a token'),
    'zero_shot_loss_spread': ('standard deviation over examples of their mean loss', 'nats a token'),
    'zero_shot_first_loss': ('loss of the first answer token', 'nats'),
    'zero_shot_stop_loss': ('loss of the stop token', 'nats'),
    'zero_shot_token_accuracy': ('answer and stop tokens that are the arg max', 'share'),
    'zero_shot_exact_match': ('examples whose answer and stop tokens are all the arg max', 'share'),
    'zero_shot_first_accuracy': ('first answer tokens that are the arg max', 'share'),
    'zero_shot_entropy': ('entropy of the predicted distribution at answer tokens', 'nats'),
    'prompt_loss': ('loss of the prompt tokens: how foreign the text is to the model', 'nats a token'),
    'log_gradient_norm': ('norm of the loss gradient for one vector added to all last hidden states', 'ln nats a unit'),
    'log_gradient_noise': ("ln(1 + trace of that gradient's covariance / its squared mean)", 'ln examples'),
    'embedding_norm': ('norm of the mean over examples of mean-pooled last hidden states, over sqrt(D)', 'rms'),
    'embedding_spread': ('rms distance of pooled hidden states from their mean, over sqrt(D)', 'rms'),
    'embedding_similarity': ("mean cosine between two examples' pooled hidden states", 'cosine'),
    'calibration_seconds_per_example': ('fastest of repeated warm forward passes, the unit of costs', 'seconds'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MetaFeatures:
    """The values of DATA_FEATURES and MODEL_FEATURES by name, and what they cost.

    Attributes:
      values: `calibration_seconds_per_example` alone is measured time, so it differs between machines and calls.
      seconds: wall time of computing them, compilation included.
      num_examples: training examples that the model looked at.
    """

    values: dict[str, float]
    seconds: float
    num_examples: int


def meta_features(
    dataset: Dataset,
    encoded_train: EncodedExamples,
    model: Phi3,
    *,
    pretraining_tokens: int | None = None,
    seed: int = 0,
) -> MetaFeatures:
    """Computes all meta-features of a task.

    Args:
      dataset: the task's data.
      encoded_train: `prompts.encode` of its training split, in the same order.
      model: the base model, unchanged.
      pretraining_tokens: of the base model, where it is known.
      seed: draws the examples that the model looks at, where there are more than 64.
    """
    start = time.perf_counter()
    order = np.random.default_rng(seed).permutation(len(encoded_train))[:MAX_EXAMPLES]
    values = data_features(dataset, encoded_train) | model_features(model, encoded_train.take(order))
    if pretraining_tokens:
        values['log_pretraining_tokens'] = math.log(pretraining_tokens)
    return MetaFeatures(values, time.perf_counter() - start, len(order))


def pretraining_tokens(directory: str | os.PathLike) -> int | None:
    """Returns what `experiments.pretrain` left beside a base model: its tokens so far; None for a base without."""
    path = Path(directory) / 'pretraining.json'
    return int(json.loads(path.read_text())['curve'][-1]['tokens']) if path.exists() else None


# ---------------------------------------------------------------- from the data


def data_features(dataset: Dataset, encoded_train: EncodedExamples) -> dict[str, float]:
    """Returns the DATA_FEATURES of a dataset."""
    train = dataset.train
    answers = collections.Counter(example.answer for example in train)
    prompts = collections.Counter(example.prompt for example in train)
    pairs = {(example.prompt, example.answer) for example in train}
    share_N = np.array(list(answers.values())) / len(train)
    answer_tokens_N = encoded_train.length_N - encoded_train.answer_start_N
    words = collections.Counter(word for example in train for word in _words(example.question))
    asked = [word for example in dataset.validation for word in _words(example.question)]
    is_token = np.arange(encoded_train.tokens_NL.shape[1])[None, :] < encoded_train.length_N[:, None]
    kinds = {name: _share(train, test) for name, test in _ANSWER_TESTS.items()}
    return kinds | {
        'log_num_train_examples': math.log(len(train)),
        'log_num_validation_examples': math.log(len(dataset.validation)),
        'log_num_distinct_questions': math.log(len(prompts)),
        'log_num_distinct_answers': math.log(len(answers)),
        'log_examples_per_answer': math.log(len(train) / len(answers)),
        'answer_entropy': float(-(share_N * np.log(share_N)).sum()),
        'duplicate_rate': 1 - len(prompts) / len(train),
        'contradiction_rate': (len(pairs) - len(prompts)) / len(train),
        'log_mean_prompt_tokens': math.log(encoded_train.answer_start_N.mean()),
        'log_max_tokens': math.log(encoded_train.length_N.max()),
        'log_mean_answer_tokens': math.log(answer_tokens_N.mean()),
        'answer_tokens_spread': float(answer_tokens_N.std() / answer_tokens_N.mean()),
        'log_vocabulary': math.log(len(np.unique(encoded_train.tokens_NL[is_token]))),
        'log_question_words': math.log(max(1, len(words))),
        'unseen_word_rate': sum(word not in words for word in asked) / max(1, len(asked)),
        'unseen_answer_rate': _share(dataset.validation, lambda example: example.answer not in answers),
    }


def _words(text: str) -> list[str]:
    return re.findall(r'\w+', text.lower())


def _share(examples: Sequence[Example], test: Callable[[Example], Any]) -> float:
    return sum(bool(test(example)) for example in examples) / len(examples)


_NUMBER = re.compile(r'[-+]?[\d.,]*\d[\d.,]*%?')
_DATE = re.compile(rf'\d{{4}}-\d\d-\d\d|\d+\.? ({"|".join(MONTHS)})|({"|".join(MONTHS)}) \d+', re.IGNORECASE)
_ANSWER_TESTS: dict[str, Callable[[Example], Any]] = {
    'number_answers': lambda e: _NUMBER.fullmatch(e.answer.strip()),
    'yes_no_answers': lambda e: e.answer.strip().lower().rstrip('.') in ('yes', 'no', 'true', 'false'),
    'letter_answers': lambda e: len(e.answer.strip(' ().')) == 1 and e.answer.strip(' ().').isalpha(),
    'date_answers': lambda e: _DATE.search(e.answer),
    'sentence_answers': lambda e: e.answer.rstrip().endswith('.') and len(e.answer.split()) >= 3,
    'context_rate': lambda e: e.context,
    'answer_in_context_rate': lambda e: e.answer.lower() in f'{e.context} {e.question}'.lower(),
}


# ---------------------------------------------------------------- from the model


def model_features(model: Phi3, seen: EncodedExamples) -> dict[str, float]:
    """Returns the MODEL_FEATURES on the given examples.

    They go through one compiled program in groups of eight; repeats that fill the last group up do not count.
    """
    graph, params = nnx.split(model)
    looks: list[dict[str, np.ndarray]] = []
    seconds: list[float] = []
    groups = _groups(seen)
    while len(looks) < max(len(groups), _MIN_TIMINGS + 1) or sum(seconds[1:]) < _TIMING_SECONDS:
        start = time.perf_counter()
        looks.append(jax.device_get(_look(graph, params, *groups[len(looks) % len(groups)])))
        seconds.append(time.perf_counter() - start)
    found = {
        name: np.concatenate([look[name] for look in looks[: len(groups)]])[: len(seen)].astype(np.float64)
        for name in looks[0]
    }
    tokens_N, loss_N, right_N = found['num_tokens'], found['loss'], found['num_right']
    values = {
        'log_num_parameters': math.log(sum(leaf.size for leaf in jax.tree.leaves(params))),
        'zero_shot_loss': loss_N.sum() / tokens_N.sum(),
        'zero_shot_loss_spread': (loss_N / tokens_N).std(),
        'zero_shot_first_loss': found['first_loss'].mean(),
        'zero_shot_stop_loss': found['stop_loss'].mean(),
        'zero_shot_token_accuracy': right_N.sum() / tokens_N.sum(),
        'zero_shot_exact_match': (right_N == tokens_N).mean(),
        'zero_shot_first_accuracy': found['first_right'].mean(),
        'zero_shot_entropy': found['entropy'].sum() / tokens_N.sum(),
        'prompt_loss': found['prompt_loss'].sum() / max(1.0, found['num_prompt_tokens'].sum()),
        'calibration_seconds_per_example': min(seconds[1:]) / _GROUP,  # the first one compiles
    }
    values |= _gradient_features(found['gradient'] / tokens_N.mean()) | _embedding_features(found['pooled'])
    return {name: float(value) for name, value in values.items()}


def _gradient_features(gradient_ND: np.ndarray) -> dict[str, float]:
    """Returns norm and noise of the mean gradient; tr(S) / |g|^2 is the noise scale of arXiv 1812.06162."""
    mean_D = gradient_ND.mean(axis=0)
    covariance_trace = np.square(gradient_ND - mean_D).sum(axis=1).mean()
    squared = max(float(np.square(mean_D).sum()), 1e-12)  # a task solved before finetuning has no gradient
    return {'log_gradient_norm': 0.5 * math.log(squared), 'log_gradient_noise': math.log1p(covariance_trace / squared)}


def _embedding_features(pooled_ND: np.ndarray) -> dict[str, float]:
    num, width = pooled_ND.shape
    mean_D = pooled_ND.mean(axis=0)
    unit_ND = pooled_ND / np.maximum(np.linalg.norm(pooled_ND, axis=1, keepdims=True), 1e-12)
    similarity = (np.square(unit_ND.sum(axis=0)).sum() - num) / (num * (num - 1)) if num > 1 else 1.0
    return {
        'embedding_norm': np.linalg.norm(mean_D) / math.sqrt(width),
        'embedding_spread': np.sqrt(np.square(pooled_ND - mean_D).sum(axis=1).mean() / width),
        'embedding_similarity': similarity,
    }


def _groups(seen: EncodedExamples) -> list[tuple[np.ndarray, ...]]:
    """Cuts examples into groups of eight `(tokens, answer_start, length)`, widths padded to a multiple of 16."""
    rows = np.resize(np.arange(len(seen)), math.ceil(len(seen) / _GROUP) * _GROUP)
    width = seen.tokens_NL.shape[1]
    tokens_NL = np.pad(seen.tokens_NL, ((0, 0), (0, -width % 16)))
    arrays = (tokens_NL, seen.answer_start_N, seen.length_N)
    return [tuple(array[rows[i : i + _GROUP]] for array in arrays) for i in range(0, len(rows), _GROUP)]


@jax.jit
def _look(
    graph: Any, params: Any, tokens_BL: jax.Array, answer_start_B: jax.Array, length_B: jax.Array
) -> dict[str, jax.Array]:
    """Returns sums over the tokens of each example [B], pooled hidden states [B, D], and gradients [B, D]."""
    model = nnx.merge(graph, params)
    hidden_BLD = model.hidden(model.embed(tokens_BL))
    at_L = jnp.arange(1, tokens_BL.shape[1], dtype=jnp.int32)[None, :]
    start, length = answer_start_B[:, None], length_B[:, None]
    masks = {
        'answer': (at_L >= start) & (at_L < length),
        'first': at_L == start,
        'stop': at_L == length - 1,
        'prompt': at_L < start,
    }
    target_BL = tokens_BL[:, 1:]

    def total(values_BL: jax.Array, where: str) -> jax.Array:
        return jnp.where(masks[where], values_BL, 0.0).sum(axis=1)

    def loss(shift_BD: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits_BLV = model.logits(hidden_BLD + shift_BD[:, None, :])[:, :-1]
        nll_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, target_BL)
        return total(nll_BL, 'answer').sum(), (logits_BLV, nll_BL)

    no_shift_BD = jnp.zeros_like(hidden_BLD[:, 0])
    gradient_BD, (logits_BLV, nll_BL) = jax.grad(loss, has_aux=True)(no_shift_BD)
    right_BL = (jnp.argmax(logits_BLV, axis=-1) == target_BL).astype(jnp.float32)
    entropy_BL = -(jax.nn.softmax(logits_BLV) * jax.nn.log_softmax(logits_BLV)).sum(axis=-1)
    valid_BL = (jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None, :] < length).astype(jnp.float32)
    pooled_BD = jnp.einsum('BLD,BL->BD', hidden_BLD.astype(jnp.float32), valid_BL)
    return {
        'num_tokens': masks['answer'].sum(axis=1),
        'num_prompt_tokens': masks['prompt'].sum(axis=1),
        'loss': total(nll_BL, 'answer'),
        'first_loss': total(nll_BL, 'first'),
        'stop_loss': total(nll_BL, 'stop'),
        'prompt_loss': total(nll_BL, 'prompt'),
        'num_right': total(right_BL, 'answer'),
        'first_right': total(right_BL, 'first'),
        'entropy': total(entropy_BL, 'answer'),
        'pooled': pooled_BD / valid_BL.sum(axis=1)[:, None],
        'gradient': gradient_BD.astype(jnp.float32),
    }
