"""What an order is found by. A table of its own, because a transition writes the order's row and its indexes again."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base

ORDER_SOURCE = "order"
"""The source of the terms that `app.utils.search_terms.order_terms` gives."""


class OrderSearch(Base):
    """Search terms of an order from one source.

    Attributes:
        source: `order` for number, names, e-mail and phone. The triggers `index_number` and `index_parcel` write the
            others: `parcel`, or the number itself of a document, a return or a parcel that comes back.
        terms: lexemes without positions.
    """

    __tablename__ = "order_search"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(String(100), primary_key=True)
    terms: Mapped[str] = mapped_column(TSVECTOR)

    __table_args__ = (
        # A search reads the pending list of the index from end to end, so it is kept short.
        Index(None, "terms", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 256}),
    )
