"""Growth: train a cell, change it by morphisms, keep what improves it.

`strategy` decides, `moves` proposes changes, `pruning` removes ops, `state` holds what a stage works on.
"""
