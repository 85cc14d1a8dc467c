"""Benches: parity of AUC, performance, and the report on both."""
