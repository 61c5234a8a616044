"""Orders: create, read, search, correct, and the notes of the staff."""
