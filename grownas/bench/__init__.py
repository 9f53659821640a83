"""Benchmarks: how fast the engine is beside its peers, and what must hold of that.

settings -> peers -> timing, memory, first -> rows of figures with their bars -> results, table, picture
"""
