"""Floor 2: cards. The software 82599 is model82599.py, its registers registers.py."""
