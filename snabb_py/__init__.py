"""Packets, links and apps: a user-space network toolkit in the style of Snabb.

Importing this package loads nothing else, so that every program starts quickly.
"""

__version__ = "0.1.0"
