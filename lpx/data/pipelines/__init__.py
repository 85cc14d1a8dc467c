"""How other pipelines than lpx's make a model's input from a face crop."""
