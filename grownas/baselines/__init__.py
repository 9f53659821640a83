"""Models that the cell found by the search is compared with, and the linear models of series.

`table` names them; `series`, `text` and `plain` compute them for a kind of task.
"""
