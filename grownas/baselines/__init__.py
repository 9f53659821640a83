"""Baselines: models to compare the found cell with, and the linear models of series.

`table` lists them; `series`, `text` and `plain` compute them for each kind of task.
"""
