"""Demonstrations to episodes: a policy, an environment, and the episode writer watching."""
