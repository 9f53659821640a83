"""Ways to search for a cell: a file or a folder each, found by entry point.

A strategy takes a `Problem` and yields `SearchResult`s (see `grownas.protocols`).
"""
