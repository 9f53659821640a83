"""Word-level language modelling on the Penn Treebank or any text in the same format."""
