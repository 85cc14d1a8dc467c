"""Sets of faces: in memory, on disk, as tables, and the demo's."""
