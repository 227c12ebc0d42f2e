"""Attribution of a small transformer: which pieces of text, and characters, make a prediction."""
