"""A task: a dataset with its base model, tokenized and padded, ready to be finetuned on."""

import dataclasses

from metaft.finetune.data import Rows, bucketed
from metaft.phi3 import Phi3
from metaft.tasks.dataset import Dataset
from metaft.tasks.prompts import EncodedExamples, encode
from metaft.tasks.tokenizer import Tokenizer

DEFAULT_MAX_EXAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class Task:
    """What every run on a task shares.

    Attributes:
      name: identifies dataset and base model together.
      dataset: the dataset's name.
      base_model: the base model's name.
      model: the frozen base.
      encoded_train: the training split as tokens (meta-features read it).
      train, validation, test: rows with one common padding, so that one program serves all three.
      max_examples: training examples of a full run, repeats included.
    """

    name: str
    dataset: str
    base_model: str
    model: Phi3
    encoded_train: EncodedExamples
    train: Rows
    validation: Rows
    test: Rows
    max_examples: int = DEFAULT_MAX_EXAMPLES


def prepare(
    dataset: Dataset,
    model: Phi3,
    tokenizer: Tokenizer,
    *,
    base_model: str,
    max_examples: int = DEFAULT_MAX_EXAMPLES,
    max_prompt_length: int = 0,
) -> Task:
    """Tokenize a dataset for a base model.

    Args:
      max_prompt_length: positions to leave free for a soft prompt.

    Raises:
      DataError: an example is longer than the model's window.
    """
    window = model.config.max_position_embeddings - max_prompt_length
    splits = [
        encode(getattr(dataset, split), tokenizer, max_length=window, source=f'{dataset.name} ({split})')
        for split in ('train', 'validation', 'test')
    ]
    train, validation, test = bucketed(*splits)
    return Task(
        name=f'{dataset.name}@{base_model}',
        dataset=dataset.name,
        base_model=base_model,
        model=model,
        encoded_train=splits[0],
        train=train,
        validation=validation,
        test=test,
        max_examples=max_examples,
    )
