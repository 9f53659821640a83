"""Scores of finished models, tests of their differences, and comparisons over runs.

Nothing here trains models or writes text; `report` puts results into sentences.
"""
