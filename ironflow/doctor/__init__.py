"""Looks at an installation and says what is wrong with it, and what to do.

Checks are pure functions of what was found; ``examination`` finds it.
"""

from __future__ import annotations

from ironflow.doctor.examination import Examination
from ironflow.doctor.finding import Finding, Level

__all__ = ["Examination", "Finding", "Level"]
