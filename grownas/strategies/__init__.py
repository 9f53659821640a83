"""Ways to search: `programs.STRATEGIES` names them."""
