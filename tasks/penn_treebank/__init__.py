"""Word-level language modelling: the Penn Treebank, or any text in its form."""
