"""Wait; never decide."""
