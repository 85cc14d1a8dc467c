"""Make fakes from real faces, and pairs to train on."""
