"""The meta-dataset: what was measured on which task, stored safely, read as dense tables.

records   one measurement, one task: the rows
store     append-only JSON lines and Parquet, on a disk or in an object store
tables    rows -> one dense [C, T] table a task
splits    folds over datasets
quality   is it worth learning from? numbers of the quality report
published curves that others measured, as the same tables
"""
