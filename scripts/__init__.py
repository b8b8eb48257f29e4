"""The command line: a thin file per command, and the two shell scripts."""
