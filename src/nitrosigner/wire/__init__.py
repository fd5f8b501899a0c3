"""Bytes that cross a trust boundary, and their limits. Pure: bytes in, values out."""
