"""The report as typed values, and as JSON."""
