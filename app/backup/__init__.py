"""Backups: base backups of PostgreSQL, its write-ahead log, and the documents, in one folder; and restoring them (NFR-003).

`repository` is the folder and its contents, `sealed` how a file is written, `source` the database that is backed up,
`programs` PostgreSQL's own tools. `base` and `log` are what is copied of the database, `create` all that goes in, `verify`
whether it is whole. `target` is how far to restore, `recovery` how PostgreSQL gets there, `restore` all that comes out, and
`schedule` the process that backs up in time.
"""
