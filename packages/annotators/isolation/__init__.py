"""How plugins run in another environment: the messages (``wire``), the far side (``worker``), this one (``process``).

``wire``, ``worker`` and everything in ``workers`` run in that environment too: they are written for
Python 3.8, import numpy at most, and nothing of scenewright.
"""
