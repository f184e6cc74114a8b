"""The process driver: instances are forked from zygotes into namespaces on this machine."""
