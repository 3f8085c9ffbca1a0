"""What is learned: data, loss, metric and head."""
