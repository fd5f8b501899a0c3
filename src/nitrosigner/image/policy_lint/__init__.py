"""The parts of the linter of key policies; `image.key_policy_lint` is its front."""
