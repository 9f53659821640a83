"""What growth and the baselines of a kind of task are given, and how the baselines compete."""
