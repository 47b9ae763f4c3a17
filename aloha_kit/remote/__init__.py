"""Remote inference over a websocket: the robot sends observations, the machine with the GPU returns chunks.

Neither side unpickles anything; the robot's needs no torch.
"""

from aloha_kit.remote.client import RemotePolicy
from aloha_kit.remote.messages import ConnectionLostError, RemoteError
from aloha_kit.remote.server import PolicyServer, ServedPolicy

__all__ = ["ConnectionLostError", "PolicyServer", "RemoteError", "RemotePolicy", "ServedPolicy"]
