"""Models that the grown cell is compared with."""

# By a task's kind; known to configs without importing torch. The functions stand in `contests`.
NAMES = {
    "series": (
        *("zero", "var1", "var", "var_robust", "har", "lstm", "gru"),
        *("gru_var", "random", "fixed_size_random", "sizes"),
    ),
    "language": ("lstm", "gru", "random", "darts_v1", "darts_v2", "enas"),
}
