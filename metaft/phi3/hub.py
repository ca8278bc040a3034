"""From a name to a model directory: a local path, or a repository of the Hugging Face hub."""

import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from metaft.errors import ModelError

_FILES = ('*.json', '*.safetensors', 'tokenizer.model', '*.jinja')


def model_directory(name: str) -> Path:
    """Return the directory of a model, downloading it where `name` is a hub id such as
    'microsoft/Phi-3-mini-4k-instruct'.

    Raises:
      ModelError: it is neither a directory nor a repository that can be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        raise ModelError(f'model {name!r} is no directory and no Hugging Face id (owner/name); give one of the two')
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = ' (HF_HUB_OFFLINE is set)' if os.environ.get('HF_HUB_OFFLINE') == '1' else ''
        first_line = str(error).strip().split('\n')[0]
        raise ModelError(
            f'model {name!r} is no local directory and cannot be fetched from the Hugging Face hub{offline}: '
            f'{first_line}; download it and give its directory'
        ) from None
