"""A machine's process that joined the cluster and runs instances."""
