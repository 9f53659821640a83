"""Tables, plots, diagrams and the HTML page; reads run folders only."""
