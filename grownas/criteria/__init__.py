"""What judges a candidate or a candidate op; never acts."""
