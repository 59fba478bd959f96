"""Functions that test workers execute."""
