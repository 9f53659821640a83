"""Recurrent cells: the definition, the sequence engine and the module around them."""
