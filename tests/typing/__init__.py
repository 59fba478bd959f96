"""Types of the public API: what must pass, and what must be refused."""
