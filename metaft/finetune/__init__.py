"""Finetuning: the search space, populations of runs over one frozen base, their budgets and costs."""
