"""Walks a plan through its phases."""
