"""The surrogate: from what is known and observed of a task to distributions of value and cost over the budget axis.

transforms  values and costs -> the space everything below works in, and back
encoding    configurations and meta-features -> numbers;  coverage: what of them is new
curves      a learning curve so far -> features
context     runs so far -> what the network reads
architectures  the networks by name: deep_set, attention, independent
network     what they share;  heads: its curves, by name;  likelihood: their mixtures of Gaussians
memory      what runs did on other tasks;  process: a Gaussian process over them, inside of networks;  prior: its fit
regression  the same with levels and whole curves, solved exactly, beside the networks;  regression_fit: its prior
episodes    what it is trained on;  training: one ensemble;  ensemble: with folds and calibration
surrogate   checkpoint and `predict`;  prediction: the answer
evaluation  scores on tasks that were left out
"""
