"""What engines cost: latency, throughput, energy."""
