"""Growth: train a cell, change it by morphisms, keep the changes that improve it.

`strategy` controls the search, `moves` proposes changes, `pruning` removes ops, `state` defines candidates and stages.
"""
