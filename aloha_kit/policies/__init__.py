"""Policy networks, one file per family, with their normalisation, checkpoints and inference engines.

Needs torch. Import what you need from its module.
"""
