"""Supernets: cells whose nodes mix several ops by trained architecture weights.

`chain` contains the chain of nodes that growth changes.
"""
