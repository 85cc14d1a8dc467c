"""Projects that run an engine without Python."""
