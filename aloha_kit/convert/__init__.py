"""Conversion of recorded episodes from one format to another."""
