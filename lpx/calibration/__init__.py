"""Calibration: from a face set to activation ranges, in one pass with bounded memory."""
