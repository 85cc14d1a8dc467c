"""The detector: backbones, local head, aggregates, receptive field, checkpoints.

An independent reconstruction, from the public abstract, of the local-prediction framework of
Ling et al., "Learning Diverse Local Patterns for Deepfake Detection with Image-level Supervision",
IJCNN 2021, DOI 10.1109/ijcnn52387.2021.9533912.
"""
