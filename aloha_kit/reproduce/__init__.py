"""Reproduction of a published result: demonstrations, training, evaluation, and a table of the results."""
