"""What is looked at: batches, a batch, a job; and the list of keys."""
