"""What lies in the directory: storage, arrays, the log and the manifest."""
