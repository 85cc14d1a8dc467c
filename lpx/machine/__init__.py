"""The machine at hand: its hardware, its memory, its sensors."""
