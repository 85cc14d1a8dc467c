"""Shards of the workspace's steps, and the merging of their parts."""
