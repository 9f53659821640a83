"""Criteria that accept or reject candidates and rank ops. They never train or change a cell."""
