"""Scores of files: faces found, scored and drawn; results and pages."""
