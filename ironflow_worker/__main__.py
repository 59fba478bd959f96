"""``python -m ironflow_worker``."""

from ironflow_worker.main import main

main()
