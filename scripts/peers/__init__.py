"""Other programs that extract keypoints, in turns with lf: `python -m scripts.peers`."""
