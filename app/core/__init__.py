"""What all floors above share: who acts, the vocabularies, logging, metrics, credentials."""
