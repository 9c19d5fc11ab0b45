"""Every image encoded once: the cache that training, candidates and evaluation read."""
