"""Training on image-level labels."""
