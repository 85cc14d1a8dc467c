"""What a workspace holds, checked: model, checkpoint, engines, calibration caches."""
