"""Local stand-ins for Nitro, KMS and vsock. Nothing may import this room."""
