"""Packages and layers: code by digest, its handler and dependencies, where they lie on disk."""
