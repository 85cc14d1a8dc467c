"""Fakes made of real faces, and pairs to train on."""
