"""One-step-ahead forecasts of the daily returns of many stock indices at once."""
