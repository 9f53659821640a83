"""Tables, plots, diagrams and the HTML page, made from run folders."""
