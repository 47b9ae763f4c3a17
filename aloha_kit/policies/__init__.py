"""Networks that act: one file a family, normalisation and checkpoints in one place.

Needs torch. Import what you need from its module.
"""
