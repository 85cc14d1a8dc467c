"""Predict: detect, score and draw the faces in files, with tables and pages of results."""
