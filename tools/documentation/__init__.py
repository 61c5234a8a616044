"""The pages and files that are made from the code, and what MkDocs needs to build the site (requirement DOC)."""
