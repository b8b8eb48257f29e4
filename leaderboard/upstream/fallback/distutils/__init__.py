"""Stand-in for what upstream asks of `distutils`, which left Python 3.12: versions, words for booleans."""
