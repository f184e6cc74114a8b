"""The process part that takes outcomes, records them, and retries or discards."""
