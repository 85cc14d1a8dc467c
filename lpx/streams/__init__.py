"""Video streams: live sources, scored frame by frame, and how many cameras a machine carries."""
