"""The evidence: parity of AUC, latency, and the report."""
