"""Files on a disk or in a bucket: read, published whole, cached, leased."""
