"""Tools that know nothing of orders: errors, mail, storage, documents, time."""
