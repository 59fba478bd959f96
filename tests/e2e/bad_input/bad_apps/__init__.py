"""Apps for what goes wrong with input only where it is executed."""
