"""``python -m ironflow_engine``."""

from ironflow_engine.main import main

main()
