"""Files on disk or in a bucket: read, published atomically, cached, leased."""
