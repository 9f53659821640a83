"""Training: recipes, the training loop, bilevel steps, migration of optimiser state across a morphism.

The loop depends on a task and a model, never on a genotype. Nothing here changes a cell, accepts it or rejects it.
"""
