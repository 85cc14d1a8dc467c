"""The program that runs on a board: see `main`."""
