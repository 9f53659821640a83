"""`python -m grownas` is the console script."""

from grownas.cli import main

main()
