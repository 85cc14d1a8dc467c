"""This machine: its hardware, its memory, its sensors."""
