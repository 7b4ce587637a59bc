"""What is in the folder: files, arrays, the manifest."""
