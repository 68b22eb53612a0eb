"""What the doctor does in the world; it asks, and changes nothing."""
