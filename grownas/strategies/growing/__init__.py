"""Growth: train a cell, change it by morphisms, keep the changes that improve it.

`strategy` controls the search, `stages` trains and judges one change, `moves` proposes changes, `pruning` removes ops,
`state` defines candidates and stages, `context` and `batches` what moves and criteria read.
"""
