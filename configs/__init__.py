"""Configuration files and routes that ship with tickdrive."""
