"""What every table shares: constraint names by convention, UUIDv7 keys, closed vocabularies."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, MetaData, Numeric, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Declarative base; `Mapped[str]` is text, `Mapped[datetime]` is timestamptz, `Mapped[Decimal]` money."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: DateTime(timezone=True),
        Decimal: Numeric(12, 2),
        UUID: Uuid(),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


PrimaryKey = Annotated[UUID, mapped_column(primary_key=True, server_default=text("uuid7()"))]
"""UUIDv7 key, made by the caller or else by the database."""

CreatedAt = Annotated[datetime, mapped_column(server_default=text("now()"))]


def one_of(column: str, values: type[StrEnum], *, nullable: bool = False) -> CheckConstraint:
    """Return a CHECK that `column` holds a member of `values`; its name is the column's."""
    listed = ", ".join(f"'{value}'" for value in values)
    condition = f"{column} IN ({listed})"
    return CheckConstraint(f"{column} IS NULL OR {condition}" if nullable else condition, name=column)
