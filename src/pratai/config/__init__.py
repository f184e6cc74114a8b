"""Configuration: one typed schema, loaded once, passed on. Only here is the environment read."""
