"""Scores of finished models, tests of their differences, and comparisons over runs.

Nothing here trains, and nothing here puts results into words: that is the report's.
"""
