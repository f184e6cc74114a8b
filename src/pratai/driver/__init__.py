"""How a node makes sandboxes. `base.py` is the contract; each driver is a module or folder here."""
