"""What has to hold of the data before a number means anything."""
