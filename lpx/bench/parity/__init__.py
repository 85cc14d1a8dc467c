"""Whether an engine still tells real from fake as the reference does."""
