"""The command line: one file a noun. Talks to a server over HTTP alone; decides nothing itself."""
