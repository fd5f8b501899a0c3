"""Lambda handlers: the reference systems' operations in front of the signer."""
