"""Latency of plans: profiles of a few, and predictions for all others."""
