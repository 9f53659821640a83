"""Models that the grown cell is compared with."""

NAMES = ("zero", "var1", "var", "var_robust", "lstm", "gru", "gru_var", "random")  # the functions are in `contest.BASELINES`
