"""Finetuning scaling laws: how the loss falls with data and other sizes, and where one method overtakes another.

`tables` reads measurements into groups of `points`; `laws` are the forms; `fitting` finds their constants and how sure
they are; `crossovers` compares two fitted laws. Nothing here plots or knows of finetuning.

Beside the repository's dimension letters: I measured points, J constants of a law, X factors (model size, pretraining
tokens, adapter size), U draws (starts or bootstrap resamples).
"""
