"""What Nitro vouches for: the NSM, one boot's keys, and KMS that answers to them."""
