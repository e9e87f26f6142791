"""Tools of those who work on the package: no tests, not installed."""
