"""Content of a workspace, checked: model, checkpoint, engines, calibration caches."""
