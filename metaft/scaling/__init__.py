"""Finetuning scaling laws: how the loss falls with data and other sizes, and where one method overtakes another.

`tables` reads measurements into groups of `points`; `laws` are the forms; `fitting` finds their constants and how sure
they are (`descent` the optimum, `profile` the limits); `archive` keeps fits on disk; `crossovers` compares two fitted
laws, and `advice` all of them at a question. Nothing here plots or knows of finetuning.
"""
