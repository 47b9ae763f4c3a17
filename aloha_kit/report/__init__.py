"""One page about a whole loop: what was recorded, learned and achieved."""
