"""Networks that act: one file a family, normalisation and checkpoints in one place.

Import what you need from its module; `execution` needs numpy alone, the rest needs torch.
"""
