"""Training batches from episodes: index, statistics, sampling, frames and augmentation.

Images and batches need torch; `index`, `stats`, `chunks`, `sampler` and `camera_statistics` do not.
"""
