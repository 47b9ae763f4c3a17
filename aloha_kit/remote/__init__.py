"""A policy on another machine: the robot asks over a websocket, the one with the GPU answers.

Neither side unpickles anything; the robot's needs no torch.
"""

from aloha_kit.remote.client import RemotePolicy
from aloha_kit.remote.messages import ConnectionLostError, RemoteError
from aloha_kit.remote.server import PolicyServer, Served

__all__ = ["ConnectionLostError", "PolicyServer", "RemoteError", "RemotePolicy", "Served"]
