"""Attacks, one file each and named after it; the other files are the parts they are made of."""
