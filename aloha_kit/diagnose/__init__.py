"""Diagnosis of failed rollouts from their log, their episode and the statistics of training."""
