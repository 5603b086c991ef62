"""Data sets, one file each: where it is read from, and what it holds."""
