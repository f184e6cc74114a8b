"""How messages travel between processes: in memory on one machine, over sockets in a cluster."""
