"""What several test files share and is no fixture. `pythonpath` in pyproject.toml makes it importable as `support`."""
