"""Measurements. Nothing here asserts a time: figures are printed, and read beside each other."""
