"""The meta-dataset: what was measured on which task, stored safely, read as dense tables.

records   one measurement, one task: the rows
store     append-only JSON lines and Parquet
tables    rows -> one dense [C, T] table a task
splits    folds over datasets
"""
