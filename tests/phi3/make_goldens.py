"""Writes goldens/logits.npz: transformers' logits for tests/phi3/cases.py, for tests that run without torch.

    python -m tests.phi3.make_goldens

To be run again when cases.py changes, and for no other reason.
"""

import pathlib
import tempfile

import numpy as np

from metaft.phi3 import save_pretrained
from tests.phi3 import cases

FILE = pathlib.Path(__file__).parent / 'goldens' / 'logits.npz'


def reference_logits(model, tokens, mask=None):
    """Computes logits by transformers' Phi3ForCausalLM, float32, attention in its plain ("eager") form."""
    import torch
    from transformers import Phi3ForCausalLM

    with tempfile.TemporaryDirectory() as directory:
        save_pretrained(model, directory)
        theirs = Phi3ForCausalLM.from_pretrained(directory, attn_implementation='eager', dtype=torch.float32).eval()
    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask, dtype=torch.int64)
        return theirs(torch.tensor(tokens, dtype=torch.int64), attention_mask=mask).logits.numpy()


def main():
    goldens = {}
    for name, config in cases.CONFIGS.items():
        model, tokens = cases.model(config), cases.tokens(config)
        goldens[name] = reference_logits(model, tokens)
        goldens[f'{name}.left'] = reference_logits(model, tokens, cases.padding('left'))
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **goldens)
    print(f'{FILE.name}: {len(goldens)} arrays, {FILE.stat().st_size} bytes')


if __name__ == '__main__':
    main()
