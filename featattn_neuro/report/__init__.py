"""Dataset to figure, table and page. Computes nothing: every number shown is read from a result file."""
