"""What all cores share: effects, the shape of a core, deadlines, leases. Pure."""
