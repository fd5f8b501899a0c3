"""The `nitrosigner` command: what a person runs."""
