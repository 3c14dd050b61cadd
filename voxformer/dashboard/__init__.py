"""The live page over run folders: it reads what a run writes and never touches training."""
