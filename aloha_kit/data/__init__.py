"""Episodes to training batches: index, statistics, order, frames and augmentation. Needs torch."""
