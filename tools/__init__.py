"""What the developers of this project run by hand or in CI; no part of the application."""
