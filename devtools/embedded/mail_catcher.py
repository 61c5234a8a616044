"""A mail server that delivers nowhere: it keeps what it is given and shows it in a mailbox page (INT-002).

Run it with `python -m devtools.embedded.mail_catcher --smtp-port 1025 --http-port 8025 --data-dir FOLDER`.
Mails are kept in `FOLDER/mail`, each on disk before its sender is answered 250. Its greeting says what it is
("220 host ArtiCurated mail catcher"), by which production refuses it.
"""

import argparse
import asyncio
from pathlib import Path

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session

from app.config import KEEP_ALIVE_SECONDS
from app.local.process import LOOPBACK
from devtools.embedded.mail_store import MailStore
from devtools.embedded.mailbox_app import create_app

LARGEST_MAIL_BYTES = 32 * 1024 * 1024


class Catcher:
    """Handler of the SMTP server: every recipient is welcome."""

    def __init__(self, store: MailStore) -> None:
        self._store = store

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail; gives the SMTP answer. A full disk is the sender's to retry."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        try:
            mail_id = await asyncio.to_thread(self._store.add, envelope.mail_from or "", envelope.rcpt_tos, content)
        except OSError as fault:
            return f"452 4.3.1 cannot be kept: {fault.strerror}"
        return f"250 2.0.0 kept as {mail_id}"


async def serve(smtp_port: int, http_port: int, data_dir: Path) -> None:
    """Catch mails and show them until SIGTERM or SIGINT."""
    store = MailStore(data_dir / "mail")
    catcher = Catcher(store)
    smtp = await asyncio.get_running_loop().create_server(
        lambda: SMTP(
            catcher, data_size_limit=LARGEST_MAIL_BYTES, enable_SMTPUTF8=True, ident="ArtiCurated mail catcher"
        ),
        LOOPBACK,
        smtp_port,
    )
    web = uvicorn.Server(
        uvicorn.Config(
            create_app(store),
            host=LOOPBACK,
            port=http_port,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )
    async with smtp:
        await web.serve()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="mail_catcher", description="Catches mails and shows them.")
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    chosen = parser.parse_args()
    asyncio.run(serve(chosen.smtp_port, chosen.http_port, chosen.data_dir))


if __name__ == "__main__":
    main()
