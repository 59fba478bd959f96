"""The engine: decides what runs. It never executes a step, and workers never import it."""
