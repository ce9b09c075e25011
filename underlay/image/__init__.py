"""From nothing to a host: a disk that boots as a host of the plan, or the seed for an image that people have."""
