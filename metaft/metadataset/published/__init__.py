"""Published curves as the tables that surrogate and search read: `loaders.load(kind, path)`.

benchmarks  published curves and our own, as the comparison of searchers reads them
loaders     the kinds by name, their files and metrics
curves      curves of any budgets -> one dense table on a grid of fractions
files       reads JSON lines, CSV and npz; what is missing is named
tabular     LCBench, TaskSet: arrays
finetuning  DeBERTa and AlexNet of opda, LoRA for translation (nmtlc), PEFT's method comparison
algoperf    optimizers on the workloads of AlgoPerf
rectified   losses of many models by the size of their finetuning data
"""
