"""Contracts as reusable checks: what third parties run on their own environments, policies and data sources."""
