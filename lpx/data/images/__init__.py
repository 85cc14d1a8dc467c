"""Pictures and videos in and out, and crops of faces."""
