"""Tasks: datasets, prompts and tokenizers, the synthetic world, and what a surrogate is told of a task.

Import the modules: `dataset`, `prompts`, `tokenizer`, `catalogue`, `synthetic`, `meta_features`. The synthetic world is
`language` (what is said), `world` (what is true), `rules`, and `pretraining` (the text that base models read).
"""
