"""What is recorded of a task before any run of it: one place, so that collected tasks and a user's own are alike."""

from os import PathLike

from metaft.finetune.population import Evaluation
from metaft.finetune.task import Task
from metaft.metadataset.records import TaskRecord
from metaft.tasks.dataset import Dataset
from metaft.tasks.meta_features import meta_features, pretraining_tokens


def task_record(
    dataset: Dataset, task: Task, reference: Evaluation, directory: str | PathLike, seed: int = 0
) -> TaskRecord:
    """Computes the meta-features of a task and returns them with its reference values.

    Args:
      dataset: of the task.
      task: prepared from it.
      reference: the base as it is on the validation split.
      directory: of the base, which may say how many tokens it was pretrained on.
      seed: of the examples that the base is shown.
    """
    tokens = pretraining_tokens(directory)
    features = meta_features(dataset, task.encoded_train, task.model, pretraining_tokens=tokens, seed=seed)
    return TaskRecord(
        task=task.name,
        dataset=task.dataset,
        base_model=task.base_model,
        max_examples=task.max_examples,
        reference_loss=reference.loss,
        reference_exact_match=reference.exact_match,
        reference_seconds=features.values['calibration_seconds_per_example'],
        meta_features=features.values,
        meta_features_seconds=features.seconds,
    )
