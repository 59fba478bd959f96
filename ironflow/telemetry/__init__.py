"""What engine and worker show of themselves: probes, metrics, traces."""
