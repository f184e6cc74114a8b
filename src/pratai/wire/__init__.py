"""What crosses a socket: messages between processes, frames between a node and its instances."""
