"""The surrogate: what a deep set, meta-learned over many tasks, predicts of learning curves and costs on a new one."""
