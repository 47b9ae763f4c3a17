"""Episodes to training batches: index, statistics, order, frames and augmentation.

Images and batches need torch; `index`, `stats`, `chunks`, `sampler` and `descriptor` do not.
"""
