"""An archive in Postgres: what the streams forget after a while. Only this package speaks to Postgres.

Nothing is decided by what it says, nothing waits for it, and without one everything else works.
"""
