"""Invoices and credit notes: numbers, content, files and their links."""
