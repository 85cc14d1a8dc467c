"""Ablation: trainings that differ in one setting at a time, over several seeds."""
