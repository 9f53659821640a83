"""One-step-ahead forecasts of the daily returns of several stock indices."""
