"""Search strategies: one file or folder each, found by entry point.

A strategy searches a `Problem` and yields `SearchResult`s (see `grownas.protocols`).
"""
