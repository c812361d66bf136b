"""Versions of the API's contract."""
