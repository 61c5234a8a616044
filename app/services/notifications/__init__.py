"""Mail, SMS and chat: what a message says, to whom it goes, and the log of what was sent."""
