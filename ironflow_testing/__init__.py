"""For tests of workflows: engine, worker and broker in this process, and a clock that jumps where nothing happens."""

from ironflow_testing.environment import Environment, workflow_test

__all__ = ["Environment", "workflow_test"]
