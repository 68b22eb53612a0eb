"""What the doctor makes of what was seen."""
