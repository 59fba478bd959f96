"""The tests of Ironflow; run them from the root of the repository."""
