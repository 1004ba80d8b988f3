"""The benchmark client."""
