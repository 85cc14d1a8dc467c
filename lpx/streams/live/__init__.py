"""Live sources: network cameras and local ones, read without end in bounded memory."""
