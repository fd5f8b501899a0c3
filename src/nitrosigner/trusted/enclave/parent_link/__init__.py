"""What is asked of the parent, and how little of its answers is believed."""
