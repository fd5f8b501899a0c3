"""The AWS stacks, by the CDK: both jobs, locked down before the first key exists."""
