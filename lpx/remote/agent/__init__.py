"""What runs on a board: see `main`."""
