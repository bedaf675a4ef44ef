"""Runs pipelines on this machine, without a service: what `LocalBackend` is made of."""
