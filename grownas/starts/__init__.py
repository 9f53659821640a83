"""Starts of a search: a fitted linear model or random weights.

Each start is a task's model around a `Backbone`.
"""
