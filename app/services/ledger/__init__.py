"""Every write of payments and refunds: no other module writes these two tables (`tests/unit/test_ledger.py`).

`payments` and `refunds` have one function for each fact, `statements` the expressions for the statement of a transition.
A function works in the caller's transaction. What follows from a fact, such as a job, is the caller's to add.

Amounts have two decimals and are in the payment's currency; `at` is a time by the caller's clock, with its time zone.
A row is passed under its lock, from `locked_payment` or `locked_refund`. Locks are taken in one order, so that no two
transactions wait for each other: an order or a refund, its payment, the return, the dead letter, the job.

The database holds the rules too. "Guards" names the constraints (`ck_`, `uq_`) and triggers (`guard_`) of the table that
hold a write. What they refuse raises `sqlalchemy.exc.IntegrityError`: at the flush or, where the guard is deferred, at
the commit. The event of a refund has the refund's version as its number; one that is taken raises `RecordTamperedError`.
"""
