"""The work of a run, from data to scores: search or train, then train the baselines under the same conditions.

`series` and `text` hold what is particular to a kind of task, `experiment` what all kinds share.
"""
