"""Backups: base backups of PostgreSQL, its write-ahead log, and the documents, in one folder; and restoring them (NFR-003).

`repository` is the folder and its contents, `sealed` how a file is written, `programs` PostgreSQL's own tools,
`create` what goes in, `verify` whether it is whole, `restore` what comes out, `schedule` the process that does it in time.
"""
