"""Doors that become the native program."""
