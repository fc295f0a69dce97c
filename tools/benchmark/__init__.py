"""What `python tools/bench.py` measures, a file for each section."""
