"""Performance of engines: latency, throughput, energy."""
