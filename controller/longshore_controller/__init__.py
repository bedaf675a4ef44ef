"""The controller: decides what runs where, records it, and tells everyone."""
