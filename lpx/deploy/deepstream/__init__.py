"""What DeepStream needs to run a detector: configurations, probes, a self-test."""
