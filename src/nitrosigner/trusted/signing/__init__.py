"""What may be signed, and how. Pure: no I/O, no clock, no environment."""
