"""Units of work on the machines of a Ray cluster. It knows nothing of what the units are."""
