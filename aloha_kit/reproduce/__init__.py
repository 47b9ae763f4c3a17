"""A published result made again from nothing: demonstrations, training, evaluation, and a table of how it went."""
