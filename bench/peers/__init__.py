"""The same tiny workload on other servers. Each file is what that server's own command loads."""
