"""Contracts as reusable checks: what third parties run on their own environments and policies."""
