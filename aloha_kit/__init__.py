"""aloha_kit: record, train, deploy and replay on ALOHA-style bimanual rigs."""

__version__ = "0.1.0"
