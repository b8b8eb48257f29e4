"""See the package `agents` above."""
