"""metaft: which finetuning configuration to run, what it costs, what it gives.

Nothing is imported or configured here. The dimension letters that arrays carry in their names, everywhere:

    B batch          L tokens (queries)   S keys             D model width       N query heads   K key/value heads
    H head size      F output width       V vocabulary       R LoRA rank         P soft prompt   M population members
    C configurations T budget grid        E encoded configuration                Z meta-features W tasks
    A answer tokens  G mixture components O observed configurations (the context) Q quantiles or samples
    I measured points of a scaling law    J its constants      X its factors      U draws: starts or resamples
"""

__version__ = '0.1.0'
