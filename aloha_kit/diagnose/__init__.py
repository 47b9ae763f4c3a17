"""Diagnosis of failed rollouts from their step log, their episode and the statistics of training."""
