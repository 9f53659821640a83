"""Models that the grown cell is compared with."""

# Known to configs without importing torch; the functions stand in `contest.BASELINES`.
NAMES = ("zero", "var1", "var", "var_robust", "lstm", "gru", "gru_var", "random")
