"""The broker contract, as tests that every broker has to pass."""
