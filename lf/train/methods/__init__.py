"""Training methods: batches and loss of each."""
