"""Benchmarks: the speed of the engine beside its peers, with limits that it must meet.

settings -> peers -> timing, memory, first -> rows of figures with their limits -> results, table, picture
"""
