"""The docker driver: sandboxes are containers of a Docker engine; `driver.py` is its face."""
