"""A warehouse on an object store: what is stored lies in a bucket, and in a folder of each machine as copies."""
