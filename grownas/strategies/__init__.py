"""Ways to search; each has the form of `protocols.Strategy`."""
