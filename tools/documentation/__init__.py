"""The pages of docs/ that are made from the code, and what MkDocs needs to build the site (requirement DOC)."""
