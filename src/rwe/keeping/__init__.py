"""Keeping a workspace: who is erased, which build is shown, what is backed up, where a row came from."""
