"""The image's first process: what the kernel starts, and what starts the program."""
