"""lf: from a PyTorch local-feature network to the device it must run on, knowing what that cost."""

__version__ = "0.1.0"
