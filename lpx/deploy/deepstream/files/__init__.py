"""Files of a DeepStream package, as they are shipped. They need Python 3.10, and nothing of lpx."""
