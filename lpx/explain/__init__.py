"""Explanation of a detector's scores, face by face."""
