"""`teleprinter doctor`: each way to each upstream, tried step by step, with the cure."""
