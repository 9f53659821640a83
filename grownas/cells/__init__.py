"""Recurrent cells: the reference definition, the sequence engine and their module `GrownRNN`."""
