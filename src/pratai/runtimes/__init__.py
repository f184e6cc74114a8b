"""Language environments: one folder each with the bootstrap that runs user code, and the catalog.

Bootstraps import nothing of pratai: they run in the sandbox, beside code that nobody trusts.
"""
