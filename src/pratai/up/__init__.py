"""The whole platform in one process tree; everything is put together here."""
