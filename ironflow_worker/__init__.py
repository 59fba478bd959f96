"""The worker: executes passes. It decides nothing, and the engine never imports it."""
