"""lpx: from a local-prediction deepfake detector's checkpoint to verified edge engines."""

__version__ = "0.1.0"
