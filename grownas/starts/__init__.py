"""Where a search begins: at a fitted linear model or at random weights.

Each start is a task's model around a `Backbone`.
"""
