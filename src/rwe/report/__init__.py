"""From evidence.json to one self-contained page. Reads nothing else, computes nothing."""
