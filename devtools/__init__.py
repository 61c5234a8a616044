"""What development needs beside the system: embedded servers, mock gateway, demo, sample data. Not in the image."""
