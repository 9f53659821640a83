"""How a model learns: recipes, the training loop, bilevel steps, optimisers carried over a morphism.

The loop sees a task and a model, never a genotype. Nothing here changes a cell or judges it.
"""
